"""`lwd explore`: a page on which one pushes back at a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from lwd.config import require


@dataclass
class Explore:
    """Show a model at work on a page of this computer, until Ctrl-C: push the block with the mouse, change how often the model is asked,
    click into its latent space. Without a run it shows small models of PushT that are shipped, LWD and Diffusion Policy side by side."""

    run: Annotated[Positional[str], arg(metavar="[RUN]")] = ""
    """Run directory."""
    beside: str = ""
    """Run of another method in the same environment, under the same hand."""
    task: str = ""
    """Task, of a model that knows several."""
    seed: int = 0
    """Seed of the first episode."""
    port: int = 8765
    """Port; 0 takes a free one."""
    browser: bool = True
    """Open the page in the browser."""
    threads: int = 1
    """Processor threads of the models."""

    def __call__(self) -> None:
        import sys
        import webbrowser

        import torch

        from lwd.deploy.web import serve
        from lwd.errors import LWDError
        from lwd.explore.latents import LatentMap
        from lwd.explore.live import Live
        from lwd.explore.models import SHIPPED
        from lwd.explore.server import Page
        from lwd.policy import Generator

        require(self.seed >= 0 and self.threads >= 1, "--seed must not be negative, and --threads must be at least 1")
        require(bool(self.run) or not self.beside, "--beside needs a run to be beside of: lwd explore RUN --beside OTHER")
        torch.set_num_threads(self.threads)
        runs = [run for run in (self.run, self.beside) if run] or [str(run) for run in SHIPPED]
        models: dict[str, Generator] = {}
        for run in runs:
            own = Generator(run)
            name = {"lwd": "LWD", "diffusion_policy": "Diffusion Policy"}.get(own.method.config.name, own.method.config.name.upper())
            models[name if name not in models else f"{name} ({run})"] = own
        envs = [own.method.spec.env for own in models.values()]
        require(envs[0] is not None, f"the data of {runs[0]} names no simulator to play in: take a run of PushT, such as runs/demo")
        require(len(set(envs)) == 1, f"{runs[-1]} is of another environment ({envs[-1]}) than {runs[0]} ({envs[0]})")
        first = next(iter(models.values()))
        task = self.task or (first.tasks[0] if first.tasks else None)
        for own in models.values():
            own.method.task_index(own._names(task, 1))  # says what is wrong with the task
        latents = None
        try:
            latents = LatentMap(first) if first.method.has_latent else None
        except LWDError as error:  # the data has gone: all but the map is there
            print(f"lwd: no map of latents ({error})", file=sys.stderr)
        Live(models, task, self.seed, latents)  # says now what is missing for it

        def ready(url: str) -> None:
            print(f"{' beside '.join(runs) if self.run else 'shipped models of PushT'} at {url}  (Ctrl-C ends)", flush=True)
            if self.browser:
                webbrowser.open(url)

        serve(Page(lambda: Live(models, task, self.seed, latents)).app, "127.0.0.1", self.port, "", ready)
