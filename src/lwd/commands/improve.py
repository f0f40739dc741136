"""`lwd improve`: continues a run through imagined episodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from lwd.config import Improved, require


@dataclass
class Improve:
    """Improve the policies of a run in imagination. It trains a world model on the run's demonstrations, if the run has none, and then the
    policies, in imagined episodes that start beside the demonstrated path: they learn to come back, and to be quick. Neither robot nor
    simulator is asked. The result is a run of its own, and needs no world model at run time. The same command again continues."""

    run: Positional[str]
    """Run directory of lwd or mlp, trained to its end. It stays as it is."""
    out: str = ""
    """Directory of the improved run; RUN-improved when empty."""
    data: str = ""
    """The run's demonstrations, where they have moved."""
    steps: int = 0
    """Gradient steps in imagination. 0 chooses them from the size of the data."""
    weight: float = 0.1
    """Weight of imagined progress against staying close to the demonstrations. At 0 nothing is improved."""
    fresh: bool = False
    """Start over, whatever OUT holds."""
    quiet: bool = False
    """Print no table and no progress bars."""
    json: bool = False
    """Print a summary as JSON, and nothing else."""

    def __call__(self) -> None:
        from lwd.commands.train import Train
        from lwd.training.run import Run

        run = Run(self.run)
        config, method = run.config(), run.config().method
        if not isinstance(method, Improved):
            require(False, f"{run.path} has chunks of actions ({method.name}): only policies that react can be improved in imagination")
        require(not getattr(method, "improve", False), f"{run.path} is improved already: give the run that it was made from")
        assert isinstance(method, Improved)
        improvement = replace(method.improvement, steps=self.steps or method.improvement.steps, weight=self.weight)
        changed = replace(method, imagine=True, improve=True, improvement=improvement, stages_from=str(run.path))
        out = self.out or str(Path(f"{run.path}-improved"))
        Train(replace(config, data=self.data or config.data, out=out, method=changed), self.fresh, quiet=self.quiet, json=self.json)()
