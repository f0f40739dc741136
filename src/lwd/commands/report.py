"""`lwd report`: the report of a run."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tyro.conf import Positional


@dataclass
class Report:
    """Write report.html and report.md of a run: training, latents, links of the chain, action errors, results, and what to do next."""

    run: Positional[str]
    """Run directory, trained to its end."""
    device: str = "cpu"
    """Where the model computes."""
    quiet: bool = False
    """Do not say what is being measured."""
    json: bool = False
    """Print JSON: the path of the report, and what to do next."""

    def __call__(self) -> None:
        from lwd.commands.reporting import report_run
        from lwd.training.run import Run

        path, steps = report_run(Run(self.run), device=self.device, quiet=self.quiet or self.json)
        print(json.dumps({"report": str(path), "next": steps}, indent=1) if self.json else path)
