"""Files are written whole or not at all: under a temporary name first, which is then renamed. Nothing here unpickles."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lwd.errors import LWDError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the whole new one. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write a value as a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file; `what` says in the error what its absence means.

    Raises:
        LWDError: the file is missing, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LWDError(f"{path} is missing: {what}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise LWDError(f"{path} cannot be read ({error}): {what}") from None
    if not isinstance(value, dict):
        raise LWDError(f"{path} does not hold a JSON object: {what}")
    return value


def read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object that another process may be replacing or may never have written; None where there is none."""
    try:
        return read_json(path, "")
    except LWDError:
        return None


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold a directory, for one process at a time; `doing` says in the error what another one does ("is training in").

    Raises:
        LWDError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows: there it is the user's own care
        yield
        return
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LWDError(f"another process {doing} {folder}: wait for it, or choose another --out") from None
        yield
