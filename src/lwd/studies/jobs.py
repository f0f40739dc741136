"""The jobs of a study: every training and every evaluation once, however many cells need it. `python -m lwd.studies.jobs FILE` is one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from lwd.config import Config, Corrected, EvalSettings, Improved, LatentConfig, from_dict, require, to_dict
from lwd.errors import LWDError
from lwd.files import read_object, write_json
from lwd.presets import shrink, shrink_evaluation
from lwd.studies.study import BASE, Cell, Options, Study, choose_axes, shown, variant_of

# settings of a training that do not change what is learned
FREE = ("preset", "out", "device", "threads", "download", "log_every", "validate_every", "checkpoint_every")


@dataclass(frozen=True)
class Job:
    """A unit of work, done by a process of its own that reads `content` from `file`."""

    name: str  # unique in the study
    content: Mapping[str, Any]  # JSON-ready: `kind` (train, evaluate, decode, links, separability) and what it is done with
    key: str  # hash of all that decides about the output
    needs: list[str]  # names of the jobs whose outputs it reads
    output: Path  # is there when it is finished
    run: Path  # run directory that it works in
    file: Path  # beside it lie NAME.log, which the process prints, and NAME.done, which it leaves behind when it has ended well

    @property
    def log(self) -> Path:
        return self.file.with_suffix(".log")

    def finished(self) -> float | None:
        """Seconds that it took; None where it has to be run, because its key is another one than then, or its output is gone."""
        stamp = read_object(self.file.with_suffix(".done")) or {}
        return float(stamp["seconds"]) if stamp.get("key") == self.key and self.output.exists() else None


class Point(NamedTuple):
    """A cell with the jobs that fill it."""

    cell: Cell
    training: Job
    test: Job
    measured: Job | None


class Plan:
    """The cells and jobs of a study with given options, seed by seed, so that a study that was cut off has whole comparisons.

    An LWDError says what cannot work in options, axes or settings.
    """

    def __init__(self, name: str, study: Study, options: Options) -> None:
        self.name, self.study, self.options, self.axes = name, study, options, choose_axes(study, options)
        require(options.seeds >= 1, f"--seeds counts trainings of every arm: at least 1, not {options.seeds}")
        default = next(iter(study.variants))
        self.variant = variant_of(study, options)
        self.data = options.data or (study.data if isinstance(study.data, str) else study.data[self.variant])
        ending = f"-{self.variant}" * (self.variant != default) + "-debug" * options.debug
        self.folder = Path(options.out or f"runs/study-{name}{ending}")
        self.runs = Path(options.runs) if options.runs else self.folder / "runs"
        values = [dict(zip(self.axes, point, strict=True)) for point in product(*self.axes.values())]
        every = [Cell(own, seed, self.variant) for seed in range(1 if options.debug else options.seeds) for own in values]
        self.cells = [cell for cell in every if not study.skip(cell)]
        require(len(self.cells) > 0, "with these axes no cell of the study means anything: choose others")
        self.configs = [self.config(study.train(cell), cell.seed) for cell in self.cells]
        self.keys = [self.key(config) for config in self.configs]
        self.jobs: dict[str, Job] = {}
        pairs = zip(self.cells, self.configs, strict=True) if study.evaluate else ()
        self.points = [self._point(cell, config) for cell, config in pairs]

    def config(self, declared: Config, seed: int) -> Config:
        """The config of a training, with what the options say."""
        config = replace(declared, data=self.data, seed=seed, device=self.options.device, threads=1)
        return shrink(config) if self.options.debug else config

    def key(self, config: Config) -> str:
        """Equal keys, equal trainings. The first stage of another run counts by the key of that run."""
        values = {name: value for name, value in to_dict(config).items() if name not in FREE}
        if values["method"]["stages_from"] == BASE:
            values["method"]["stages_from"] = self.key(self._base(config))
        return key_of(values)

    def _base(self, config: Config) -> Config:
        """The training whose stages a config takes over: the same without its correction or improvement, or the study's base."""
        method: Any = config.method
        last = Corrected if getattr(method, "correct", False) else Improved if getattr(method, "improve", False) else None
        if last:
            return replace(config, method=replace(method, stages_from="", **{name: getattr(type(method)(), name) for name in last.HEAD}))
        return self.config(self.study.base or config, config.seed)

    def _training(self, config: Config) -> Job:
        key, needs, method = self.key(config), list[str](), config.method
        if method.stages_from == BASE:
            first = self._training(self._base(config))
            needs.append(first.name)
            config = replace(config, method=replace(method, stages_from=str(first.run)))
        name = f"{self._label(config, key)}-s{config.seed}-{key}"
        run = next(iter(self.runs.glob(f"*-{key}")), self.runs / name)  # with other axes the name was another one
        content = {"kind": "train", "config": to_dict(replace(config, out=str(run)))}
        return self._add(run.name, content, key, needs, run / "checkpoints" / "latest.json", run)

    def _label(self, config: Config, key: str) -> str:
        """What the cells of one training have in common, for its name: `dp-replan_every16`; its preset where they share nothing."""
        users = [cell for cell, own in zip(self.cells, self.keys, strict=True) if own == key]
        parts = []
        for axis in (axis for axis, values in self.axes.items() if len(values) > 1):
            words = {shown(cell.values[axis]) for cell in users}
            parts += [f"{axis}{word}" if word[0].isdigit() else word for word in words if len(words) == 1]
        return "-".join(parts) or config.preset.replace("/", "-")

    def _point(self, cell: Cell, config: Config) -> Point:
        assert self.study.evaluate is not None
        training, options = self._training(config), self.options
        settings = self.study.evaluate(cell)
        settings = replace(settings, episodes=options.episodes or self.study.episodes, seed_start=options.seed_start)
        settings = shrink_evaluation(settings) if options.debug else settings
        kind = "decode" if self.study.decode else "evaluate"
        values = {"kind": kind, "settings": to_dict(settings), "device": options.device}
        name = "decoded" if self.study.decode else f"every{settings.replan_every}_{settings.disturb.replace(':', '')}"
        test, what = self._test(training, values, f"eval/{name}-{key_of(values)[:6]}"), self.study.measure
        measured = what and (what != "separability" or isinstance(config.method, LatentConfig))  # of latents
        return Point(cell, training, test, self._test(training, {"kind": what, "device": options.device}, what) if measured else None)

    def _test(self, training: Job, values: dict[str, Any], name: str) -> Job:
        output = training.run / f"{name}.json"
        content, key = {**values, "run": str(training.run), "output": str(output)}, key_of([training.key, values])
        return self._add(f"{training.name}-{output.stem}", content, key, [training.name], output, training.run)

    def _add(self, name: str, content: dict[str, Any], key: str, needs: list[str], output: Path, run: Path) -> Job:
        return self.jobs.setdefault(name, Job(name, content, key, needs, output, run, self.folder / "jobs" / f"{name}.json"))


def key_of(values: Any) -> str:
    """A short hash of JSON-ready data."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def work(job: Mapping[str, Any]) -> None:
    """What the process of a job does with its content. It starts no processes of its own: other jobs run beside it."""
    from lwd.diagnose.decoded import decode_run
    from lwd.diagnose.links import measure_links
    from lwd.diagnose.separability import separability
    from lwd.evaluate import evaluate_run
    from lwd.training.run import Run
    from lwd.training.train import train

    if job["kind"] == "train":
        train(from_dict(Config, job["config"]), quiet=True)
        return
    run, device, output = Run(job["run"]), job["device"], Path(job["output"])
    settings = from_dict(EvalSettings, job.get("settings", {}))
    if job["kind"] == "evaluate":
        evaluate_run(run, settings, device=device, name=output.stem, workers=0)
    elif job["kind"] == "decode":
        write_json(output, decode_run(run.path, episodes=settings.episodes, steps=settings.max_steps, workers=0, device=device))
    else:
        write_json(output, measure_links(run, device, workers=0) if job["kind"] == "links" else separability(run.path, device))


if __name__ == "__main__":
    try:
        work(json.loads(Path(sys.argv[1]).read_text()))
    except LWDError as error:  # a sentence explains it
        sys.exit(f"lwd: {error}")
    except KeyboardInterrupt:  # a training that was asked to end
        sys.exit(130)
