"""`lwd train`: trains a method by a recipe, and writes the report of the run."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Annotated

import tyro

from lwd.config import Config
from lwd.errors import LWDError
from lwd.presets import PRESETS, shrink

DEFAULT = "lwd"


@dataclass
class Train:
    """Train a method, all its stages, and write a report. The same command again continues."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=lambda: PRESETS[DEFAULT][1])
    fresh: bool = False
    """Start over, whatever the run directory holds."""
    debug: bool = False
    """Make everything so small that it takes seconds, to see that things run."""
    report: bool = True
    """Write report.html into the run directory when the training is done."""
    quiet: bool = False
    """Print no table and no progress bars."""
    json: bool = False
    """Print a summary as JSON, and nothing else."""

    @classmethod
    def parse(cls, words: Sequence[str]) -> Train:
        """The first word is the name of a preset; without one, the recipe for any data is meant."""
        name, rest = (DEFAULT, words) if not words or words[0].startswith("-") else (words[0], words[1:])
        if name not in PRESETS:
            path = f"; if it is a file with demonstrations, say --data {name}" if "." in name or "/" in name else ""
            meant = "" if path else "".join(f"did you mean {close}? " for close in get_close_matches(name, PRESETS, 1))
            raise LWDError(f"there is no preset {name!r}: {meant}the presets are {', '.join(PRESETS)}{path}")
        presets = "\n".join(f"- {other}: {text}" for other, (text, _) in PRESETS.items())
        manual = f"{cls.__doc__}\n\nPreset {name}: {PRESETS[name][0]}.\n\nPresets (lwd train PRESET --help has the settings):\n{presets}"
        style = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.CascadeSubcommandArgs)
        return tyro.cli(cls, prog=f"lwd train {name}", default=cls(PRESETS[name][1]), description=manual, args=rest, config=style)

    def __call__(self) -> None:
        from lwd.commands.reporting import next_steps, report_run
        from lwd.training.train import train

        quiet = self.quiet or self.json
        run = train(shrink(self.config) if self.debug else self.config, fresh=self.fresh, quiet=quiet)
        report, steps = None, next_steps(run, {})
        if self.report:
            try:
                report, steps = report_run(run, quiet=quiet)
            except LWDError as error:  # the training is done, and not lost
                print(f"lwd: the report was not written: {error}", file=sys.stderr)
        if self.json:
            paths = {"run": str(run.path), "report": str(report) if report else None}
            print(json.dumps({**paths, "preset": self.config.preset, **run.state(), "next": steps}, indent=1))
            return
        print(f"trained: {run.path}" + (f"\nreport:  {report}" if report else ""))
        print("\n".join(f"next:    {step}" for step in steps))
