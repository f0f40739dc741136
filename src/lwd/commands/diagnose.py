"""`lwd diagnose`: which link of the chain breaks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass
class Diagnose:
    """Find the link that breaks: measure every link of the chain on held-out demonstrations, with a verdict each. Writes diagnose.json."""

    run: Positional[str]
    """Run directory of LWD."""
    samples: int = 512
    """Held-out snippets that are measured. Take fewer where a query is expensive (the paper's preset on a CPU)."""
    rollouts: int = 32
    """Held-out starts for the link that needs the simulator. 0 leaves it out."""
    device: str = "cpu"
    """Where the model computes."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from rich.console import Console

        from lwd.diagnose.links import advice, diagnose, tabulate_links
        from lwd.files import read_object, write_json
        from lwd.report.tables import terminal
        from lwd.training.run import Run

        result, path = diagnose(Run(self.run), rollouts=self.rollouts, samples=self.samples, device=self.device), Path(self.run)
        write_json(path / "diagnose.json", {**(read_object(path / "diagnose.json") or {}), **result})  # a report keeps more in it
        if self.json:
            print(json.dumps(result, indent=1))
        else:
            Console().print(terminal(tabulate_links(result)))
            print("\n".join(advice(result)) or "No link is weak or broken.")
