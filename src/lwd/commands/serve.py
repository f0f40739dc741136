"""`lwd serve`: policies of a trained run for robots, over the network."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Annotated

from tyro.conf import Positional, arg

from lwd.config import Sampler, require
from lwd.deploy.limits import Limits


@dataclass
class Serve:
    """Answer observations with policies or actions, over HTTP and websockets, until Ctrl-C."""

    run: Positional[str]
    """Run directory."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other computers can reach demands a token."""
    port: int = 8000
    """Port; 0 takes a free one and prints it."""
    token_file: str = ""
    """File with the token that clients must send. By default it is what LWD_TOKEN holds in the environment, if anything."""
    limits: Annotated[Limits, arg(name="")] = field(default_factory=Limits)
    sampler: Sampler | None = None
    """Sampler; the run's own by default."""
    sampler_steps: int = 0
    """Denoising steps; the run's own by default."""
    replan_every: int = 0
    """Steps that the policies are wanted for, where the model knows several horizons. By default the horizon of training."""
    threads: int = 1
    """Processor threads of the model."""
    until_eof: bool = False
    """End when standard input does: for a program that starts the server, and must not leave it behind."""

    def __call__(self) -> None:
        import torch

        from lwd.deploy.batch import Planning
        from lwd.deploy.server import Service
        from lwd.deploy.web import serve

        file = Path(self.token_file or os.devnull)
        token = file.read_text().strip() if file.exists() and self.token_file else os.environ.get("LWD_TOKEN", "")
        require(bool(token) or not self.token_file, f"{file} holds no token: --token-file names a file with a long random word")
        torch.set_num_threads(self.threads)
        if self.until_eof:

            def wait() -> None:
                sys.stdin.read()
                os.kill(os.getpid(), signal.SIGTERM)

            Thread(target=wait, daemon=True).start()
        planning = Planning(self.run, self.sampler, self.sampler_steps, self.replan_every)
        serve(Service(planning, self.limits, token).app, self.host, self.port, token, lambda url: print(f"{self.run} at {url}", flush=True))
