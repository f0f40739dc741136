"""`lwd decode`: policies decoded from held-out demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from lwd.config import require


@dataclass
class Decode:
    """Run policies decoded from held-out demonstrations, from their own starts, without a second query. Writes eval/<name>.json."""

    run: Positional[str]
    """Run directory of LWD. Its data must hold the seeds of its episodes (`lwd data collect` keeps them)."""
    episodes: int = 16
    """Held-out demonstrations of each task, at most."""
    steps: int = 0
    """Steps that a policy acts for. 0 is a whole episode."""
    seed: int = 0
    """Seed of the choice of snippets, one of each demonstration."""
    workers: int | None = None
    """Simulator processes. By default one per core."""
    device: str = "cpu"
    """Where the model computes."""
    name: str = ""
    """Name of the result. By default it is made from the settings."""
    json: bool = False
    """Print the result as JSON, without the episodes."""

    def __call__(self) -> None:
        require(not set(self.name) & set("/\\"), f"--name becomes a file name: it must not hold a slash, but is {self.name!r}")
        require(self.workers is None or self.workers >= 0, f"--workers counts processes (0 for none), and is {self.workers}")
        from lwd.commands.evaluate import show
        from lwd.diagnose.decoded import decode_run
        from lwd.evaluate import write_result

        result = decode_run(self.run, episodes=self.episodes, steps=self.steps, seed=self.seed, workers=self.workers, device=self.device)
        result["name"] = self.name or result["name"]
        show(result, self.run, write_result(result, Path(self.run) / "eval"), as_json=self.json)
