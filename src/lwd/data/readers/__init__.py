"""Readers: files of others become `Episodes`. One file per format; nothing else in the library knows a file format."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from lwd.data.embedded import embedded_path
from lwd.data.episodes import Episodes
from lwd.data.readers import diffusion_policy, hub, lerobot, npz
from lwd.errors import LWDError

FORMATS = (diffusion_policy, lerobot, npz)
EMBEDDED = ("pusht",)  # what may follow "embedded:"
EXPECTED = (
    "expected a Diffusion-Policy zarr directory (or .zarr.zip), a LeRobot directory (with meta/info.json), "
    'an .npz file or a directory of them, a Hub id "owner/name", or "embedded"'
)


def read(path_or_id: str | Path, *, download: bool = False) -> Episodes:
    """Demonstrations from any source that the library knows; the format is recognised by content, not by name.

    Args:
        path_or_id: a file or directory, `"embedded"` or `"embedded:pusht"` (the set that ships with the package), or the id
            `"owner/name"` of a LeRobot data set on the Hugging Face Hub.
        download: allow a Hub id to be downloaded (meta data and tables only, no videos).

    Raises:
        LWDError: nothing is there, no format fits, or the content is faulty; the message names the path and the remedy.
    """
    text = str(path_or_id)
    if text == "embedded" or text.startswith("embedded:"):
        return _read_embedded(text.partition(":")[2] or "pusht")
    path = Path(text).expanduser()
    if not path.exists() and re.fullmatch(r"data/metaworld-\w+", text):  # where the collection puts it, and the presets look for it
        raise LWDError(f"{text}: no such directory; make it:  lwd data collect metaworld --tasks {path.name.removeprefix('metaworld-')}")
    if not path.exists():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) or path.suffix in {".npz", ".zarr", ".zip"} or path.parent.exists():
            raise LWDError(f"{text}: no such file or directory")
        if not download:
            raise LWDError(f"{text}: no such file or directory; if it is a data set on the Hugging Face Hub, add --download to fetch it")
        episodes = _named(text, lerobot, hub.fetch(text))
        # the cache names its directories by hash, which says nothing about the origin
        return replace(episodes, meta=replace(episodes.meta, description=f"LeRobot data set {text}"))
    for reader in FORMATS:
        if reader.matches(path):
            return _named(text, reader, path)
    raise LWDError(f"{text}: not a known data format; {EXPECTED}")


def _named(text: str, reader: hub.Reader, path: Path) -> Episodes:
    """Read, and put the path as the user wrote it before any complaint that does not mention it yet."""
    try:
        return reader.read(path)
    except LWDError as error:
        if text in str(error):
            raise
        raise LWDError(f"{text}: {error}") from error


def _read_embedded(name: str) -> Episodes:
    if name not in EMBEDDED:
        raise LWDError(f"embedded:{name}: no such embedded data set; there is {', '.join(f'embedded:{known}' for known in EMBEDDED)}")
    return _named(f"embedded:{name}", npz, embedded_path(name))
