"""Policies from a server (`lwd serve`), for a robot that has numpy and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import sleep
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import ArrayLike

from lwd.deploy.policy import Policy, parse
from lwd.errors import LWDError

LARGEST = 1 << 26  # bytes of an answer that are read at most
AGAIN = (429, 503)  # answers that mean: later, perhaps


class RemoteGenerator:
    """Asks the server at `url` (http or https) for policies, over one connection that is opened anew where it breaks: for use in one
    thread, such as that of `AsyncController`.

    Args:
        token: what the server demands.
        task: task, where the model knows several.
        timeout: seconds that the server may be silent.
        retries: attempts after the first, each after twice the pause before it.
        pause: seconds before the first of them.
    """

    def __init__(
        self, url: str, token: str | None = None, *, task: str | None = None, timeout: float = 1.0, retries: int = 1, pause: float = 0.02
    ) -> None:
        parts, port = urlsplit(url), -1
        with suppress(ValueError):
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, -1)
        if port < 0 or not parts.hostname:
            raise LWDError(f"{url!r} is no address of a server: it looks like http://192.168.0.2:8000")
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.connection = kind(parts.hostname, port, timeout=timeout)
        self.url, self.path, self.task, self.retries, self.pause = url, f"{parts.path.rstrip('/')}/v1/policy", task, retries, pause
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def __call__(self, obs: ArrayLike) -> Policy:
        """A policy for a raw observation (Do,), or (K, Do) with the past, oldest first.

        Raises:
            LWDError: the server cannot be reached, takes too long, or refuses the observation.
        """
        body = json.dumps({"obs": np.asarray(obs).tolist(), "task": self.task})
        for attempt in range(self.retries + 1):
            sleep(self.pause * 2 ** (attempt - 1) if attempt else 0)
            try:
                self.connection.request("POST", self.path, body, self.headers)
                answer = self.connection.getresponse()
                status, content = answer.status, answer.read(LARGEST)
            except (OSError, HTTPException) as error:
                self.connection.close()
                reason = f"cannot be reached ({str(error) or type(error).__name__})"
                continue
            if status == 200:
                return parse(content)
            reason = f"refuses ({status}): {_sentence(content)}"
            if status not in AGAIN:
                break
        self.connection.close()
        raise LWDError(f"the server {self.url} {reason}")

    def close(self) -> None:
        """Closes the connection; a call opens it again."""
        self.connection.close()


def _sentence(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return content[:200].decode(errors="replace")


@contextmanager
def local(run: str, *options: str, timeout: float = 10.0) -> Iterator[RemoteGenerator]:
    """A generator in a process of its own on this computer, which ends with the block, or with this process: `lwd serve RUN`. Torch then
    shares no interpreter, and so no lock, with the control loop."""
    command = [sys.executable, "-m", "lwd.cli", "serve", run, "--port", "0", "--until-eof", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            if address is None:
                raise LWDError(f"`lwd serve {run}` did not start: see its message")
            generator = RemoteGenerator(address[0], timeout=timeout)
            yield generator
            generator.close()
        finally:
            process.terminate()
