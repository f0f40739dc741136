"""From a config to training and held-out episodes; and what a config leaves open (0) is chosen here from the data, with reasons."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.config import Config, Stage
from lwd.data.read import read
from lwd.envs.base import EnvFamily, family
from lwd.episodes import Episodes, Float, Spec, concatenate
from lwd.errors import LWDError
from lwd.presets import PRESETS

# For each stage: snippets per step, passes over all start steps, and the fewest and most gradient steps.
_STAGES = {"autoencoder": (64, 16, 3_000, 10_000), "diffusion": (256, 50, 2_500, 8_000), "cloning": (1024, 50, 2_000, 20_000)}
_SHORTEST, _LONGEST = 4, 32  # steps of a horizon that is chosen


@dataclass(frozen=True)
class Choice:
    """One row of the table that is printed before a training starts: a setting, its value, and why."""

    setting: str
    value: str
    why: str = ""


def load_data(config: Config) -> tuple[Episodes, Episodes | None]:
    """(training, held-out) episodes in the observation that the config asks for. Mirror images are only in the training part.

    Raises:
        LWDError: the data cannot be read, or cannot give what the config or its preset asks for.
    """
    episodes = read(config.data, download=config.download)
    converts = config.obs_kind not in ("data", episodes.meta.obs_kind)
    env = family(episodes.meta.env) if episodes.meta.env is not None and (converts or config.mirror) else None
    faults = {}  # by field of the config: what is wrong, for a user who asked for it
    if converts:
        try:
            if env is None:
                raise LWDError(f"{config.data} names no environment that could turn its observations into {config.obs_kind!r}")
            episodes = env.convert(episodes, config.obs_kind)
        except LWDError as error:
            faults["obs_kind"] = f"{error}: leave out --obs-kind"
    if config.mirror and (env is None or env.mirror(episodes.select([0])) is None):
        faults["mirror"] = f"{config.data} belongs to no environment with a mirror symmetry: leave out --mirror"
    if faults:
        raise _misfit(config, env, faults)
    if config.demonstrations:
        episodes = demonstrations(episodes, config.demonstrations)
    training, held = episodes.split(config.holdout)
    mirrored = env.mirror(training) if config.mirror and env is not None else None
    return training if mirrored is None else concatenate([training, mirrored]), held


def _misfit(config: Config, env: EnvFamily | None, faults: dict[str, str]) -> LWDError:
    """The error for data that cannot give what was asked for. What a preset asked for is not blamed on the user."""
    preset = PRESETS[config.preset][1] if config.preset in PRESETS else None
    asked = [name for name in faults if preset is not None and getattr(preset, name) == getattr(config, name)]
    if not asked:
        return LWDError(next(iter(faults.values())))
    wishes = {"obs_kind": f"{config.obs_kind} as observations", "mirror": "mirror images"}
    options = {"obs_kind": "--obs-kind data", "mirror": "--no-mirror"}
    where = f"{config.data} names no environment that could give them" if env is None else f"{config.data} is of {env.name}, which has none"
    general = next(name for name, (_, other) in PRESETS.items() if other.method.name == config.method.name)
    train = "lwd train" if general == next(iter(PRESETS)) else f"lwd train {general}"  # the first preset needs no name
    return LWDError(
        f"the preset {config.preset} needs {' and '.join(wishes[name] for name in asked)}, but {where}: "
        f"take the preset for any data ({train} --data {config.data}), or add {' '.join(options[name] for name in asked)}"
    )


def first_of_each_task(episodes: Episodes, count: int) -> NDArray[np.int64]:
    """Indices of the first `count` episodes of each task, or of as many as there are, in the order of the data."""
    tasks = np.zeros(len(episodes), "U1") if episodes.task is None else np.asarray(episodes.task)
    return np.sort(np.concatenate([np.flatnonzero(tasks == task)[:count] for task in np.unique(tasks)]))


def demonstrations(episodes: Episodes, count: int) -> Episodes:
    """The first `count` episodes of each task.

    Raises:
        LWDError: a task has fewer.
    """
    kept = episodes.select(first_of_each_task(episodes, count))
    tasks = ["" for _ in range(len(kept))] if kept.task is None else list(map(str, kept.task))
    for task, have in Counter(tasks).items():
        if have < count:
            what = f"demonstrations of {task}" if task else "demonstrations"
            raise LWDError(f"the data has {have} {what}, fewer than --demonstrations {count}: ask for fewer, or collect more")
    return kept


def make_spec(config: Config, episodes: Episodes) -> Spec:
    """What a method must know of the data."""
    meta = episodes.meta
    return Spec(
        obs_dim=episodes.obs.shape[1],
        action_dim=episodes.action.shape[1],
        horizon=config.horizon,
        length=config.length,
        env=meta.env,
        obs_kind=meta.obs_kind,
        angles=tuple(meta.angles),
        action_low=None if meta.action_low is None else tuple(meta.action_low),
        action_high=None if meta.action_high is None else tuple(meta.action_high),
        tasks=() if episodes.task is None else tuple(sorted(set(map(str, episodes.task)))),
        starts=config.starts,
    )


def choose(config: Config, episodes: Episodes, held_out: int | None = None) -> tuple[Config, list[Choice]]:
    """Fills in what a config leaves open (0): horizon, and steps and batch of each stage. What is set already is kept.

    Args:
        config: as the user gave it.
        episodes: the training episodes of `load_data`.
        held_out: number of episodes that were held out of them. None leaves out that row of the table.

    Returns:
        The config without zeros, and the rows of a table that says what was found in the data and what was chosen.

    Raises:
        LWDError: the settings that the user made cannot go with what the data needs.
    """
    rows = _found(config, episodes)
    if held_out is not None:
        config = config if held_out else replace(config, holdout=0.0)
        why = "for validation and lwd diagnose" if held_out else "nothing can be validated: overfitting stays unseen"
        rows.append(Choice("held out", f"{held_out or 'no'} episode{'s' * (held_out != 1)}", why))
    horizon, why = (config.horizon, "as set") if config.horizon else _horizon(config, episodes.lengths)
    rows.append(Choice("horizon", f"{horizon} steps", why))
    starts = episodes.steps if config.starts == "every" else len(episodes)
    stages: dict[str, Any] = {}
    for name, stage in config.method.stages.items():
        stages[name], why = _stage(name, stage, starts)
        rows.append(Choice(name, f"{stages[name].steps:,} steps of {stages[name].batch} snippets", why))
    return replace(config, horizon=horizon, method=replace(config.method, **stages)), rows


def _horizon(config: Config, lengths: NDArray[np.int64]) -> tuple[int, str]:
    """(steps, reason): a quarter of an episode; a whole one where snippets start at the first step only."""
    extra = (config.method.before + config.method.after) % 4  # the whole snippet is a multiple of 4, which the U-Net needs
    if config.starts == "first":
        longest = int(lengths.max())
        return -(-(longest + extra) // 4) * 4 - extra, f"the longest episode ({longest} steps), because a snippet is a whole episode"
    median = float(np.median(lengths))
    usual = int(np.quantile(lengths, 0.1, method="lower"))  # nine in ten episodes are as long: a few short ones do not matter
    steps = max(_SHORTEST, min(4 * round(median / 16), _LONGEST, usual // 4 * 4))
    return steps - extra, f"a quarter of an episode (median {median:g} steps), between {_SHORTEST} and {_LONGEST}"


def _stage(name: str, stage: Stage, starts: int) -> tuple[Stage, str]:
    """(stage, reason) with steps and batch for so many start steps."""
    batch, passes, fewest, most = _STAGES[name]
    chosen = replace(stage, batch=stage.batch or min(batch, starts))
    if stage.steps:
        return chosen, "as set"
    steps = -(-passes * starts // chosen.batch // 100) * 100  # in round hundreds
    bound = f", but at least {fewest:,} steps" if steps < fewest else f", but at most {most:,} steps" if steps > most else ""
    return replace(chosen, steps=max(fewest, min(steps, most))), f"{passes} passes over {starts:,} start steps{bound}"


def _found(config: Config, episodes: Episodes) -> list[Choice]:
    """Rows on what the data holds."""
    lengths, meta = episodes.lengths, episodes.meta
    kind = "as recorded" if config.obs_kind == "data" else config.obs_kind
    tasks = [] if episodes.task is None else sorted(set(map(str, episodes.task)))
    rows = [
        Choice("episodes", f"{len(episodes):,}", f"{lengths.min()} to {lengths.max()} steps long, {episodes.steps:,} in all"),
        Choice("observation", f"{episodes.obs.shape[1]} dimensions", kind),
        Choice(
            "action", f"{episodes.action.shape[1]} dimensions", "clipped to the declared range" if meta.action_low else "no declared range"
        ),
        Choice("environment", meta.env or "none", "" if meta.env else "no simulator: see the report, and lwd diagnose"),
    ]
    if len(tasks) > 1:
        rows.append(Choice("tasks", str(len(tasks)), "told to the model as one-hot vectors"))
    if config.mirror:
        rows.append(Choice("mirror images", "yes", "every training episode is there twice"))
    names = dimension_names(episodes)
    constant, tiny = _flat(episodes.obs, meta.angles)
    still, _ = _flat(episodes.action, ())
    for what, found, why in (
        ("constant observations", [names[0][i] for i in constant], "they say nothing, and the model sees 0"),
        ("nearly constant", [names[0][i] for i in tiny], "their range is tiny: they are not scaled up to the size of the others"),
        ("constant actions", [names[1][i] for i in still], "the policy always answers with the constant"),
    ):
        if found:
            rows.append(Choice(what, ", ".join(found[:8]) + (", ..." if len(found) > 8 else ""), why))
    return rows


def _flat(values: Float, angles: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """(constant dimensions, dimensions of a tiny range), as the normaliser tells them apart."""
    from lwd.data.normalizer import CONSTANT, NARROWEST  # imports torch, which `lwd data show` does without

    half = (values.max(axis=0) - values.min(axis=0)) / 2
    linear = [i for i in range(len(half)) if i not in angles]
    widest = min(1.0, max((float(half[i]) for i in linear), default=1.0))
    constant = [i for i in linear if half[i] <= CONSTANT * widest]
    return constant, [i for i in linear if i not in constant and half[i] < NARROWEST * widest]


def dimension_names(episodes: Episodes) -> tuple[list[str], list[str]]:
    """Names of the dimensions of observation and action, where the environment has named them, otherwise their numbers."""
    obs = [str(i) for i in range(episodes.obs.shape[1])]
    action = [str(i) for i in range(episodes.action.shape[1])]
    if episodes.meta.env is not None:
        with suppress(LWDError):  # the data can be used without its environment
            env = family(episodes.meta.env)
            named, acts = env.dimensions(episodes.meta.obs_kind), env.action_dimensions
            return [*named, *obs[len(named) :]][: len(obs)], [*acts, *action[len(acts) :]][: len(action)]
    return obs, action
