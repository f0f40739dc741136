"""The moving picture of the README: two trained runs in the same episode, under the same disturbances, side by side.

    lwd train pusht --data pusht_cchi_v7_replay.zarr && lwd train pusht-dp --data pusht_cchi_v7_replay.zarr
    python benchmarks/picture.py runs/pusht runs/pusht-dp --replan-every 16 --disturb displace:50

Both get a new controller at the same interval. Of the first test seeds, the episode is shown whose difference of scores is nearest to the
mean difference: it is typical, not chosen for its outcome.
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
from lwd.rollout import Records, Scenario, rollout
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
    replan_every: int = 32
    """Steps between queries, of both."""
    disturb: str = "displace:25"
    """Disturbance, as `lwd eval` takes it."""
    episodes: int = 50
    """Test seeds among which the typical one is looked for, from 100000."""
    out: str = "docs/picture.gif"
    """File to write."""


def run(path: str, options: Options, seeds: tuple[int, ...], frames: int = 0) -> Records:
    """Episodes of one run."""
    method = load_method(Run(path))
    assert method.spec.env is not None
    settings = EvalSettings(replan_every=options.replan_every, disturb=options.disturb)
    method.sample_with(settings)
    return rollout(method, Scenario(method.spec.env, method.spec.obs_kind, seeds), settings, record_frames=frames)


def half(path: str, name: str, options: Options, seed: int) -> list[np.ndarray]:
    """Captioned frames of one run, below its name."""
    records, kind = run(path, options, (seed,), frames=1), family(str(Run(path).spec().env))
    episode = records.episodes[0]
    frames = annotate(records.frames[0], episode, kind.curve(episode))
    strip = Image.new("RGB", (frames[0].shape[1], 24), "white")
    ImageDraw.Draw(strip).text((frames[0].shape[1] // 2, 12), name, "#222222", font=ImageFont.load_default(size=14), anchor="mm")
    return [np.concatenate([np.asarray(strip, np.uint8), frame]) for frame in frames]


def main(options: Options) -> None:
    """Both halves, the shorter one holding its last frame, as one GIF."""
    seeds = tuple(range(100_000, 100_000 + options.episodes))
    primary = family(str(Run(options.left).spec().env)).primary
    scores = np.array([[e[primary] for e in run(path, options, seeds).episodes] for path in (options.left, options.right)])
    difference = scores[0] - scores[1]
    chosen = int(np.abs(difference - difference.mean()).argmin())
    means = dict(zip(options.names, scores.mean(1).round(3).tolist(), strict=True))
    print(f"{primary}, mean over {len(seeds)} episodes: {means}; shown: seed {seeds[chosen]}, {scores[:, chosen].round(3).tolist()}")
    halves = [half(path, name, options, seeds[chosen]) for path, name in zip((options.left, options.right), options.names, strict=True)]
    frames = []
    for number in range(max(map(len, halves))):
        a, b = (pictures[min(number, len(pictures) - 1)] for pictures in halves)
        frames.append(np.concatenate([a, np.full((a.shape[0], 8, 3), 255, np.uint8), b], axis=1))
    print(save_gif(frames[::2], Path(options.out), fps=20, size=408))


if __name__ == "__main__":
    main(tyro.cli(Options))
