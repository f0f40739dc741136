"""`lwd demo`: the main job in one command."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lwd.config import EvalSettings, require
from lwd.presets import PRESETS, shrink, shrink_evaluation


@dataclass
class Demo:
    """Train on the shipped demonstrations, evaluate undisturbed and disturbed, and write a report. The same command again continues."""

    out: str = "runs/demo"
    """Run directory."""
    data: str = "embedded"
    """Demonstrations of PushT."""
    episodes: int = 50
    """Episodes of each evaluation."""
    workers: int | None = None
    """Simulator processes. By default one per core."""
    fresh: bool = False
    """Start over."""
    debug: bool = False
    """Make everything so small that it takes seconds, to see that things run."""

    def __call__(self) -> None:
        require(self.workers is None or self.workers >= 0, f"--workers counts processes (0 for none), and is {self.workers}")
        from lwd.commands.evaluate import progress_bar
        from lwd.commands.reporting import report_run
        from lwd.evaluate import evaluate_run
        from lwd.training.train import train

        settings = [EvalSettings(disturb=disturb, episodes=self.episodes) for disturb in ("none", "displace:50")]
        config = replace(PRESETS["demo"][1], out=self.out, data=self.data)
        run = train(shrink(config) if self.debug else config, fresh=self.fresh)
        for each in [shrink_evaluation(own) if self.debug else own for own in settings]:
            with progress_bar(f"disturb {each.disturb}") as progress:
                print(evaluate_run(run, each, video=2, workers=self.workers, progress=progress)[1])
        print(f"\nReport: {report_run(run)[0]}")
