"""The moving picture of the README: two trained runs in the same episode, under the same displacements, side by side.

    lwd train demo && lwd train pusht-dp
    python benchmarks/picture.py runs/demo runs/pusht-dp --perturbation 50

Both get a new controller at the same interval. The episode is that of the first test seed: it is not chosen by its outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont
from tyro.conf import Positional

from lwd.config import EvalSettings
from lwd.envs.base import family
from lwd.report.video import annotate, save_gif
from lwd.rollout import Scenario, rollout
from lwd.training.run import Run
from lwd.training.train import load_method


@dataclass
class Options:
    """What to draw."""

    left: Positional[str]
    """Run directory."""
    right: Positional[str]
    """Run directory."""
    names: tuple[str, str] = ("LWD", "Diffusion Policy")
    """What is written above each half."""
    replan_every: int = 16
    """Steps between queries, of both."""
    perturbation: float = 50.0
    """Pixels."""
    seed: int = 100_000
    """Environment seed."""
    out: str = "docs/picture.gif"
    """File to write."""


def half(run: str, name: str, options: Options) -> list[np.ndarray]:
    """Captioned frames of one run, below its name."""
    method = load_method(Run(run))
    spec = method.spec
    assert spec.env is not None
    scenario = Scenario(spec.env, spec.obs_kind, (options.seed,))
    settings = EvalSettings(replan_every=options.replan_every, perturbation=options.perturbation)
    records = rollout(method, scenario, settings, workers=0, record_frames=1)
    episode = records.episodes[0]
    kind = family(spec.env)
    print(f"{name}: {({score: round(episode[score], 3) for score in kind.scores})}, {episode['queries']} queries")
    marks = {"queries": episode["queried_at"], "displaced": episode.get("displaced_at", ())}
    frames = annotate(records.frames[0], scores=kind.curve(episode), **marks)
    strip = Image.new("RGB", (frames[0].shape[1], 24), "white")
    ImageDraw.Draw(strip).text((frames[0].shape[1] // 2, 12), name, "#222222", font=ImageFont.load_default(size=14), anchor="mm")
    return [np.concatenate([np.asarray(strip, np.uint8), frame]) for frame in frames]


def main(options: Options) -> None:
    """Both halves, the shorter one holding its last frame, as one GIF."""
    left, right = (half(run, name, options) for run, name in zip((options.left, options.right), options.names, strict=True))
    frames = []
    for number in range(max(len(left), len(right))):
        a, b = left[min(number, len(left) - 1)], right[min(number, len(right) - 1)]
        frames.append(np.concatenate([a, np.full((a.shape[0], 8, 3), 255, np.uint8), b], axis=1))
    print(save_gif(frames[::2], Path(options.out), fps=20, size=408))


if __name__ == "__main__":
    main(tyro.cli(Options))
