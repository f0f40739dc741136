"""What the ablations share: second stages on the first stage of one base run, refusals, and tables of scores and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lwd.config import require, to_dict
from lwd.errors import LWDError
from lwd.presets import PRESETS
from lwd.studies.base import Study, Words
from lwd.studies.files import find, read_object, training_is_finished
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Table

BANDS = "Bands: 95 % intervals over episodes (dark), and over trainings and environments (faint)."
FREE = ("preset", "data", "out", "seed", "device", "devices", "threads", "download", "log_every", "validate_every", "checkpoint_every")


class Base(NamedTuple):
    """A run that others are compared with, or take their autoencoder from.

    Args:
        seed: training seed.
        task: its training; without words where the run was trained elsewhere.
        preset: of `lwd train`.
        words: more options that it was trained with.
    """

    seed: int
    task: Task
    preset: str
    words: tuple[str, ...]


@dataclass
class OneAutoencoder(Study):
    """Options and helpers of studies whose variants share one stage 1 per training seed."""

    base: Words = ()
    """Trained runs of LWD to start from, one per training seed, instead of training one for each of --seeds; their settings are kept."""

    def bases(self, name: str, method: str, preset: str, words: Sequence[str], given: Sequence[str]) -> list[Base]:
        """One per training seed: the runs given, or trainings of the study.

        Args:
            name: of the runs in the study, before the seed.
            method: that the given runs must be of.
            preset: of `lwd train`.
            words: more options of it.
            given: run directories.

        Raises:
            LWDError: a run that is not there, not finished, of another method, or of the same training seed as another.
        """
        if not given:
            tasks = [(seed, self.training(f"{name}-s{seed}", preset, seed, words, name)) for seed in range(self.seeds)]
            return [Base(seed, task, preset, tuple(words)) for seed, task in tasks]
        found = []
        for path in map(Path, given):
            config = (read_object(path / "config.json") or {}).get("config")
            require(config is not None and training_is_finished(path), f"{path} is no finished run: give what `lwd train` printed")
            assert config is not None
            own = config["method"]["name"]
            require(own == method, f"{path} is a run of {own}: this option takes runs of {method}")
            seed, recipe = int(config["seed"]), config["preset"] if config["preset"] in PRESETS else preset
            task = replace(self.training(f"{name}-s{seed}", recipe, seed), argv=(), run=path, arm=name)
            found.append(Base(seed, task, recipe, option_words(config, to_dict(PRESETS[recipe][1]))))
        seeds = [base.seed for base in found]
        require(len(set(seeds)) == len(seeds), f"two of the runs {', '.join(given)} have the same training seed: give one of each")
        return found

    def variant(self, base: Base, name: str, words: Sequence[str], arm: str) -> Task:
        """A training of stage 2 on the autoencoder of a base run."""
        more = (*base.words, *words, "--method.autoencoder-from", str(base.task.run))
        task = self.training(f"{name}-s{base.seed}", base.preset, base.seed, more, arm)
        return replace(task, needs=(base.task.name,) if base.task.argv else (), group=name)

    def evaluation(self, training: Task, *, horizon: int, perturbation: float, words: Sequence[str] = (), label: str = "") -> Task:
        """See `Study.evaluation`; a run that was trained elsewhere is not waited for."""
        task = super().evaluation(training, horizon=horizon, perturbation=perturbation, words=words, label=label)
        return task if training.argv else replace(task, needs=())


def short(*stages: str) -> tuple[str, ...]:
    """Options that train next to nothing."""
    return tuple(word for stage in stages for word in (f"--method.{stage}.steps", "20", f"--method.{stage}.batch", "32"))


def check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse an empty list, names that are not known, and repeated ones.

    Raises:
        LWDError: any of these.
    """
    unknown = sorted(set(names) - set(known))
    require(len(names) > 0 and not unknown, f"--{option}: there is no {', '.join(unknown) or 'name'}; choose from {', '.join(known)}")
    require(len(set(names)) == len(names), f"--{option} names something twice: {', '.join(names)}")


def check_numbers(horizons: Sequence[int], perturbations: Sequence[float]) -> None:
    """Refuse horizons below 1, negative perturbations, empty lists and repeated values.

    Raises:
        LWDError: any of these.
    """
    for option, values in (("horizons", horizons), ("perturbations", perturbations)):
        require(len(values) > 0, f"--{option} is empty")
        require(len(set(values)) == len(values), f"--{option} names something twice: {', '.join(f'{v:g}' for v in values)}")
    require(min(horizons) >= 1, f"--horizons counts steps: at least 1, not {min(horizons)}")
    require(
        min(perturbations) >= 0, f"--perturbations are magnitudes in pixels: they must not be negative, but one is {min(perturbations):g}"
    )


def option_words(config: Mapping[str, Any], preset: Mapping[str, Any], prefix: str = "") -> tuple[str, ...]:
    """The options of `lwd train` that turn a preset into another config (both as JSON-ready data)."""
    words: list[str] = []
    for key, value in config.items():
        before = preset.get(key)
        if (not prefix and key in FREE) or key in ("name", "autoencoder_from"):
            continue
        option = f"{prefix}{key.replace('_', '-')}"
        if isinstance(value, dict):
            words += option_words(value, before if isinstance(before, dict) else {}, f"{option}.")
        elif isinstance(value, bool):
            head, _, tail = option.rpartition(".")
            words += [] if value == before else [f"--{option}" if value else f"--{head}{'.' if head else ''}no-{tail}"]
        elif isinstance(value, list | tuple):
            words += [] if list(value) == list(before or ()) else [f"--{option}", *map(str, value)]
        elif value != before:
            words += [f"--{option}", str(value)]
    return tuple(words)


def intro(result: Mapping[str, Any]) -> str:
    """First sentences of an ablation's markdown file."""
    seeds = len({cell["seed"] for cell in result["cells"]})
    return (
        f"{result['score'].replace('_', ' ')} on {result['cells'][0]['env']}, mean over {result['settings']['episodes']} episodes of each "
        f"of {seeds} training seed{'s' * (seeds > 1)}. Brackets: 95 % intervals over the episodes of these trainings."
    )


def score_table(result: Mapping[str, Any], rows: Sequence[str], form: str, column: str, title: str = "") -> Table:
    """Pooled scores: a row for each combination of the labels `rows`, written as `form`, and a column for each value of another label."""
    from lwd.report import Table
    from lwd.statistics import Interval

    entries, score = result["pooled"], result["score"]
    columns = list(dict.fromkeys(entry[column] for entry in entries))
    lines = []
    for key in _keys(entries, rows):
        found = [find(entries, **dict(zip(rows, key, strict=True)), **{column: value}) for value in columns]
        best = max(e["scores"][score]["mean"] for e in found if e is not None)
        cells = []
        for entry in found:
            text = "–" if entry is None else str(Interval.from_dict(entry["scores"][score]))
            cells.append(f"**{text}**" if entry is not None and entry["scores"][score]["mean"] == best else text)
        lines.append([form.format(*key), *cells])
    caption = "In bold: the best mean of the row. Brackets: 95 % intervals."
    return Table(title or score.replace("_", " "), [", ".join(rows), *map(str, columns)], lines, caption)


def difference_tables(result: Mapping[str, Any], rows: Sequence[str], form: str, column: str) -> list[Table]:
    """Paired differences from the study's reference; no table where there is none."""
    from lwd.report import Table
    from lwd.statistics import Interval

    entries = result.get("differences", [])
    if not entries:
        return []
    columns, lines = list(dict.fromkeys(entry[column] for entry in entries)), []
    for key in _keys(entries, rows):
        found = [find(entries, **dict(zip(rows, key, strict=True)), **{column: value}) for value in columns]
        cells = ["–" if e is None else str(Interval.from_dict(dict(e))) + " `*`" * bool(e["disjoint"]) for e in found]
        lines.append([form.format(*key), *cells])
    caption = "Pairs share training seed and environment. `*`: the 95 % intervals of the two scores have no number in common."
    return [Table(f"{entries[0]['minuend']} minus the others", [", ".join(rows), *(f"− {c}" for c in columns)], lines, caption)]


def cost_table(result: Mapping[str, Any], column: str) -> Table:
    """What a query costs, by one label: the largest horizon and smallest perturbation of each."""
    from lwd.report import Table

    lines = []
    for value in dict.fromkeys(entry[column] for entry in result["pooled"]):
        own = max((e for e in result["pooled"] if e[column] == value), key=lambda e: (e.get("horizon", 0), -e.get("perturbation", 0.0)))
        lines.append(
            [str(value), f"{query_flops(own, result) / 1e6:.3g}", f"{own['ms_per_query']:.3g}", f"{own['ms_per_control_step']:.3g}"]
        )
    caption = "A batch of one, medians; FLOPs of matrix products and convolutions. Times were measured while other cells ran beside them."
    return Table("cost", [column, "MFLOP per query", "ms per query", "ms per control step"], lines, caption)


def query_flops(entry: Mapping[str, Any], result: Mapping[str, Any]) -> float:
    """FLOPs of one query of a pooled entry, whose costs are per environment step."""
    horizon = entry.get("horizon", result["settings"].get("horizon"))
    if not horizon:
        raise LWDError("the horizon of a result is not known")
    return float(entry["flops_per_step"]["query"]) * int(horizon)


def _keys(entries: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[tuple[Any, ...]]:
    """Different values of the labels, in order: numbers by size, then words."""
    keys = dict.fromkeys(tuple(entry[label] for label in labels) for entry in entries)
    return sorted(keys, key=lambda key: [(1, 0, value) if isinstance(value, str) else (0, value, "") for value in key])
