"""What a study declares: axes, the training and the evaluation of a cell, and views. Nothing here needs torch, pandas or matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from lwd.config import Config, EvalSettings, Stage, Words, parse_disturbance, require
from lwd.presets import PRESETS

BASE = "base"  # as `stages_from`: all stages but the last are taken over from the base training of the same seed
Axes = Mapping[str, tuple[Any, ...]]
View = Callable[[Any], Iterable[Any]]  # `lwd.studies.results.Results` -> tables and drawings


@dataclass(frozen=True)
class Cell:
    """One point of the grid for one training seed. Its axes are attributes: `cell.replan_every`."""

    values: Mapping[str, Any]
    seed: int
    variant: str = "cpu"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.values:
            raise AttributeError(name)
        return self.values[name]


@dataclass(frozen=True)
class Drawing:
    """A figure that a view has drawn; `name` becomes its file `<name>.png`."""

    name: str
    figure: Any
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Study:
    """The declaration of a study. Its cells are the product of its axes and the training seeds.

    The axes are nested loops in their order. Cells whose configs are equal share one run.
    """

    title: str  # what is compared, in a few words
    axes: Axes
    train: Callable[[Cell], Config]  # the training that a cell needs
    evaluate: Callable[[Cell], EvalSettings] | None = None  # None: the study measures by itself, without jobs (`cost`)
    decode: bool = False  # policies decoded from held-out demonstrations are evaluated (`lwd decode`) instead of sampled ones
    views: Sequence[View] = ()
    against: tuple[str, Any] | None = None  # axis and value that all its other values are compared with, in pairs
    variants: Mapping[str, Axes] = field(default_factory=lambda: {"cpu": {}})  # axes that differ from `axes`; the first is the default
    more: Axes = field(default_factory=dict)  # words that `--axes` knows beside the default ones, in the first variant
    skip: Callable[[Cell], bool] = lambda cell: False  # tells the cells that mean nothing
    base: Config | None = None  # the run whose first stage others take over (`second_stage`)
    measure: Literal["", "links", "separability"] = ""  # what is measured in every run beside the scores
    data: str | Mapping[str, str] = "embedded"  # default of the option, as `episodes`; by variant, where they differ
    episodes: int = 50
    note: str = ""  # a sentence for the reader of the results


@dataclass
class Options:
    """The options of all studies."""

    axes: Words = ()
    """Other values for axes of the study: "replan_every=16,32 method=lwd,dp". `--plan` shows the axes."""
    variant: str = ""
    """Recipes and axes of the study: cpu (default), and where the study has it paper (the paper's, for GPUs) or mt50."""
    env: str = ""
    """Environment, of a study of several: lift or can of `horizon` (without it: PushT) and of `operators`; halfcheetah, ant, walker2d or
    hammer of `behaviour`."""
    data: str = ""
    """Demonstrations, as for `lwd train`. The study's own by default."""
    seeds: int = 3
    """Training seeds 0, 1, ... of every arm."""
    episodes: int = 0
    """Episodes of each cell, of each task where there are several, in the same environments for all cells. 0 is the study's own number."""
    seed_start: int = 100_000
    """Environment seed of the first episode. The others follow."""
    out: str = ""
    """Directory of the study; runs/study-NAME when empty. The same command in the same directory continues."""
    runs: str = ""
    """Directory of the run directories, which studies may share: equal trainings are found by their settings. OUT/runs when empty."""
    device: Literal["cpu", "cuda", "mps"] = "cpu"
    """Where models are trained and evaluated."""
    debug: bool = False
    """See in a minute or two that things run: tiny models, two values of each axis, one training seed. The numbers mean nothing."""


def recipe(start: str | Config, **changes: Any) -> Config:
    """A preset, or a config, with other settings of its own or of its method. A number for a stage changes the stage's gradient steps."""
    config = PRESETS[start][1] if isinstance(start, str) else start
    method: Any = config.method
    own = {f.name: changes.pop(f.name) for f in fields(Config) if f.name in changes}
    for name, value in changes.items():
        if isinstance(getattr(method, name), Stage) and not isinstance(value, Stage):
            changes[name] = replace(getattr(method, name), **({"steps": value} if isinstance(value, int) else value))
    return replace(config, method=replace(method, **changes), **own)


# Learns PushT in minutes: one horizon and no phase, which short trainings do not profit from, and small networks, which lose nothing
SHORT = recipe("demo", denoiser_width=128, decoder="xs", encoder=(256, 256))


def second_stage(base: Config, **changes: Any) -> Config:
    """The study's base with other settings of its second stage; the first stage is taken over from the base's run."""
    return recipe(base, stages_from=BASE, **changes)


def variant_of(study: Study, options: Options) -> str:
    """The variant that the options ask for, an environment or another one. What the study does not have is an LWDError."""
    require(not (options.variant and options.env), "--env and --variant are two names for one choice: take one of them")
    variant, what = options.variant or options.env or next(iter(study.variants)), "environment" if options.env else "variant"
    require(variant in study.variants, f"this study has no {what} {variant!r}: choose from {', '.join(study.variants)}")
    return variant


def choose_axes(study: Study, options: Options) -> dict[str, tuple[Any, ...]]:
    """The axes of a variant with what `--axes` and `--debug` change. What the study does not have is an LWDError, or a value twice."""
    variant = variant_of(study, options)
    axes, chosen, name = {**study.axes, **study.variants[variant]}, dict[str, list[str]](), ""
    for word in " ".join(options.axes).replace(",", " ").split():
        left, equals, right = word.partition("=")
        name = left if equals else name
        require(name in axes, f"--axes {word}: this study has no such axis. Write AXIS=VALUE,VALUE; the axes are {', '.join(axes)}")
        chosen.setdefault(name, []).append(right if equals else word)
    for name, words in chosen.items():
        more = study.more.get(name, ()) if variant == next(iter(study.variants)) else ()
        kind, known = type(axes[name][0]), (*axes[name], *more)
        try:
            values = tuple(kind(word) for word in words)
        except ValueError:
            values = ()
        free = "disturbances" if name == "disturb" else "" if kind is str else "numbers"
        good = bool(values) if free else set(values) <= set(known)
        also = f", and other {free}" if free else ""
        require(good, f"--axes {name}={','.join(words)}: this study knows {', '.join(map(shown, known))}{also}")
        if name == "disturb":
            from lwd.envs.disturb import DISTURBANCES

            wrong = [value for value in values if parse_disturbance(value)[0] not in ("none", *DISTURBANCES)]
            require(not wrong, f"--axes disturb={','.join(wrong)}: the names of disturbances are none, {', '.join(DISTURBANCES)}")
        require(len(set(values)) == len(values), f"--axes {name}={','.join(words)} names a value twice")
        axes[name] = values
    return {name: values[:2] if options.debug and name not in chosen else values for name, values in axes.items()}


def shown(value: Any) -> str:
    """A value of an axis as it is written in tables and names."""
    return f"{value:g}" if isinstance(value, float) else str(value)
