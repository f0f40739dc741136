"""The jobs of a study: every training and every evaluation once, however many cells need it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lwd.config import Config, require, to_dict
from lwd.files import read_object
from lwd.presets import shrink, shrink_evaluation
from lwd.studies.study import BASE, Axes, Cell, Decode, Options, Study, choose_axes, shown

# settings of a training that do not change what is learned
FREE = ("preset", "out", "device", "threads", "download", "log_every", "validate_every", "checkpoint_every")


@dataclass(frozen=True)
class Job:
    """A unit of work: one subprocess that reads its content from a file (`lwd.studies.execute`).

    Args:
        name: unique in the study.
        content: JSON-ready: `kind` (train, evaluate, decode, measure) and what it is done with.
        key: hash of all that decides about the output.
        needs: names of the jobs whose outputs it reads.
        output: file that exists when it is finished.
        run: run directory that it works in.
        file: what the subprocess reads. `.log` beside it is its output, `.done` what it leaves behind when it has ended well.
    """

    name: str
    content: Mapping[str, Any]
    key: str
    needs: tuple[str, ...]
    output: Path
    run: Path
    file: Path

    @property
    def kind(self) -> str:
        return str(self.content["kind"])

    @property
    def log(self) -> Path:
        return self.file.with_name(f"{self.name}.log")

    @property
    def stamp(self) -> Path:
        return self.file.with_name(f"{self.name}.done")

    def finished(self) -> float | None:
        """Seconds that it took, or None where it has to be run: it is not run again while its key is the same and its output there."""
        stamp = read_object(self.stamp) or {}
        return float(stamp["seconds"]) if stamp.get("key") == self.key and self.output.exists() else None


@dataclass(frozen=True)
class Outcome:
    """How a job ended: done, failed (with an error), skipped (something that it needs failed), or stopped (by the user)."""

    state: Literal["done", "failed", "skipped", "stopped"]
    seconds: float = 0.0
    note: str = ""  # why it failed or was skipped, with the last lines of its log
    fresh: bool = True  # it was run now, not found finished


class Point(NamedTuple):
    """A cell with the jobs that fill it."""

    cell: Cell
    training: Job
    test: Job
    measured: Job | None


class Plan:
    """The cells and jobs of a study with given options, seed by seed, so that a study that was cut off has whole comparisons.

    Raises:
        LWDError: options, axes or settings that cannot work.
    """

    def __init__(self, name: str, study: Study, options: Options) -> None:
        self.name, self.study, self.options, self.axes = name, study, options, choose_axes(study, options)
        require(options.seeds >= 1, f"--seeds counts trainings of every arm: at least 1, not {options.seeds}")
        default = next(iter(study.variants))
        self.variant, self.data = options.variant or default, options.data or study.data
        ending = f"-{self.variant}" * (self.variant != default) + "-debug" * options.debug
        self.folder = Path(options.out or f"runs/study-{name}{ending}")
        self.runs = Path(options.runs) if options.runs else self.folder / "runs"
        values = [dict(zip(self.axes, point, strict=True)) for point in product(*self.axes.values())]
        every = [Cell(own, seed, self.variant) for seed in range(1 if options.debug else options.seeds) for own in values]
        self.cells = [cell for cell in every if not study.skip(cell)]
        require(len(self.cells) > 0, "with these axes no cell of the study means anything: choose others")
        self.configs = [self.config(study.train(cell), cell.seed) for cell in self.cells]
        self.jobs: dict[str, Job] = {}
        self.points: list[Point] = []
        if study.evaluate is not None:
            keys = [self.key(config) for config in self.configs]
            users = {key: [cell for cell, other in zip(self.cells, keys, strict=True) if other == key] for key in keys}
            self.labels = {key: label_of(cells, self.axes) for key, cells in users.items()}
            self.points = [self._point(cell, self._training(config)) for cell, config in zip(self.cells, self.configs, strict=True)]

    def config(self, declared: Config, seed: int) -> Config:
        """The config of a training, with what the options say."""
        config = replace(declared, data=self.data, seed=seed, device=self.options.device, threads=1)
        return shrink(config) if self.options.debug else config

    def key(self, config: Config) -> str:
        """Equal keys, equal trainings. The first stage of another run counts by the key of that run."""
        values = {name: value for name, value in to_dict(config).items() if name not in FREE}
        if values["method"].get("autoencoder_from") == BASE:
            values["method"]["autoencoder_from"] = self.key(self._base(config.seed))
        return key_of(values)

    def _base(self, seed: int) -> Config:
        assert self.study.base is not None
        return self.config(self.study.base, seed)

    def _training(self, config: Config) -> Job:
        key, needs, method = self.key(config), list[str](), config.method
        if getattr(method, "autoencoder_from", "") == BASE:
            first = self._training(self._base(config.seed))
            needs.append(first.name)
            config = replace(config, method=replace(method, autoencoder_from=str(first.run)))  # type: ignore[call-arg]
        label = f"{self.labels.get(key) or config.preset.replace('/', '-')}-s{config.seed}-{key}"
        run = next(iter(self.runs.glob(f"*-{key}")), self.runs / label)  # with other axes the label was another one
        content = {"kind": "train", "config": to_dict(replace(config, out=str(run)))}
        return self._add(run.name, content, key, tuple(needs), run / "checkpoints" / "latest.json", run)

    def _point(self, cell: Cell, training: Job) -> Point:
        assert self.study.evaluate is not None
        settings, debug, device = self.study.evaluate(cell), self.options.debug, self.options.device
        settings = replace(settings, episodes=self.options.episodes or self.study.episodes)
        if isinstance(settings, Decode):
            kind, name = "decode", "decoded"
            settings = Decode(steps=50, episodes=2) if debug else settings
        else:
            kind, name = "evaluate", f"every{settings.replan_every}_p{settings.perturbation:g}"
            settings = replace(settings, seed_start=self.options.seed_start)
            settings = shrink_evaluation(settings) if debug else settings
        values = {"kind": kind, "settings": to_dict(settings), "device": device}
        test = self._test(training, values, f"eval/{name}-{key_of(values)[:6]}")
        what = self.study.measure
        return Point(
            cell, training, test, self._test(training, {"kind": "measure", "what": what, "device": device}, what) if what else None
        )

    def _test(self, training: Job, values: dict[str, Any], name: str) -> Job:
        output, key = training.run / f"{name}.json", key_of([training.key, values])
        content = {**values, "run": str(training.run), "output": str(output)}
        return self._add(f"{training.name}-{output.stem}", content, key, (training.name,), output, training.run)

    def _add(self, name: str, content: dict[str, Any], key: str, needs: tuple[str, ...], output: Path, run: Path) -> Job:
        return self.jobs.setdefault(name, Job(name, content, key, needs, output, run, self.folder / "jobs" / f"{name}.json"))


def key_of(values: Any) -> str:
    """A short hash of JSON-ready data."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def label_of(cells: list[Cell], axes: Axes) -> str:
    """What the cells of one training have in common, for its name: `dp-replan_every16`. Empty where they share nothing."""
    common = {name: {cell.values[name] for cell in cells} for name, values in axes.items() if len(values) > 1}
    words = [(name, shown(values.pop())) for name, values in common.items() if len(values) == 1]
    parts = [f"{name}{word}" if word[:1].isdigit() else word for name, word in words]
    return "-".join("".join(c if c.isalnum() or c in "-_.+" else "_" for c in part) for part in parts)
