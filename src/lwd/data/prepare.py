"""From a config to training and held-out episodes; and what a config leaves open (0) is chosen here from the data, with reasons."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwd.config import Config, require
from lwd.data.read import read
from lwd.envs.base import EnvFamily, family
from lwd.episodes import Episodes, Spec, concatenate
from lwd.errors import LWDError
from lwd.presets import PRESETS

# For each stage: snippets per step, passes over all start steps, and the fewest and most gradient steps.
_STAGES = {
    "world": (256, 100, 2_000, 6_000),
    "autoencoder": (64, 16, 3_000, 10_000),
    "diffusion": (256, 50, 2_500, 8_000),
    "cloning": (1024, 50, 2_000, 20_000),
    "correction": (1024, 50, 1_000, 4_000),
    "improvement": (64, 4, 1_000, 2_000),
}
_SHORTEST, _LONGEST = 4, 32  # steps of a horizon that is chosen
Row = tuple[str, str, str]  # of the table that is printed before a training starts: a setting, its value, and why


def load_data(config: Config) -> tuple[Episodes, Episodes | None]:
    """(training, held-out) episodes in the observation that the config asks for. Mirror images are only in the training part."""
    episodes = read(config.data, download=config.download, obs_keys=config.obs_keys)
    episodes = episodes.select(np.flatnonzero(episodes.tagged(config.only))) if config.only else episodes
    converts = config.obs_kind not in ("data", episodes.meta.obs_kind)
    env = family(episodes.meta.env) if episodes.meta.env is not None and (converts or config.mirror) else None
    faults = {}  # by field of the config: what is wrong, for a user who asked for it
    if converts:
        try:
            require(env is not None, f"{config.data} names no environment that could turn its observations into {config.obs_kind!r}")
            episodes = env.convert(episodes, config.obs_kind)  # type: ignore[union-attr]
        except LWDError as error:
            faults["obs_kind"] = str(error)
    if config.mirror and (env is None or env.mirror(episodes.select([0])) is None):
        faults["mirror"] = f"{config.data} belongs to no environment with a mirror symmetry"
    if faults:
        raise _misfit(config, env, faults)
    episodes = demonstrations(episodes, config.demonstrations) if config.demonstrations else episodes
    training, held = episodes.split(config.holdout)
    mirrored = env.mirror(training) if config.mirror and env is not None else None
    return training if mirrored is None else concatenate([training, mirrored]), held


def _misfit(config: Config, env: EnvFamily | None, faults: dict[str, str]) -> LWDError:
    """The error for data that cannot give what was asked for. What a preset asked for is not blamed on the user."""
    preset = PRESETS[config.preset][1] if config.preset in PRESETS else None
    asked = [name for name in faults if preset is not None and getattr(preset, name) == getattr(config, name)]
    if not asked:
        field, fault = next(iter(faults.items()))
        return LWDError(f"{fault}: leave out --{field.replace('_', '-')}")
    wishes = {"obs_kind": (f"{config.obs_kind} as observations", "--obs-kind data"), "mirror": ("mirror images", "--no-mirror")}
    needs, options = zip(*(wishes[name] for name in asked), strict=True)
    where = f"{config.data} names no environment that could give them" if env is None else f"{config.data} is of {env.name}, which has none"
    general = next(name for name, (_, other) in PRESETS.items() if other.method.name == config.method.name)
    train = "lwd train" if general == next(iter(PRESETS)) else f"lwd train {general}"  # the first preset needs no name
    remedy = f"take the preset for any data ({train} --data {config.data}), or add {' '.join(options)}"
    return LWDError(f"the preset {config.preset} needs {' and '.join(needs)}, but {where}: {remedy}")


def first_of_each_task(episodes: Episodes, count: int, labels: NDArray[np.str_] | None = None) -> NDArray[np.int64]:
    """Indices of the first `count` episodes (or as many as there are) of each task, or of other `labels` (E,), in the order of the data."""
    if labels is None:
        labels = np.zeros(len(episodes), "U1") if episodes.task is None else episodes.task
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def demonstrations(episodes: Episodes, count: int) -> Episodes:
    """The first `count` episodes of each task; a task that has fewer is refused."""
    kept = episodes.select(first_of_each_task(episodes, count))
    have = Counter([""] * len(kept) if kept.task is None else kept.task.tolist())
    task, fewest = have.most_common()[-1]
    what = f"demonstrations of {task}" if task else "demonstrations"
    require(fewest >= count, f"the data has {fewest} {what}, fewer than --demonstrations {count}: ask for fewer, or collect more")
    return kept


def make_spec(config: Config, episodes: Episodes) -> Spec:
    """What a method must know of the data."""
    (_, obs_dim), (_, action_dim), meta = episodes.obs.shape, episodes.action.shape, episodes.meta
    declared = (meta.env, meta.obs_kind, meta.angles, meta.action_low, meta.action_high)
    return Spec(obs_dim, action_dim, config.horizon, config.length, *declared, episodes.tasks, config.starts)


def choose(config: Config, episodes: Episodes, held_out: int) -> tuple[Config, list[Row]]:
    """The config with what it leaves open (0) chosen from the training episodes, beside which `held_out` are held out; and why, as rows."""
    lengths, meta, tasks = episodes.lengths, episodes.meta, episodes.tasks
    rows = [
        ("episodes", f"{len(episodes):,}", f"{lengths.min()} to {lengths.max()} steps long, {episodes.steps:,} in all"),
        ("observation", f"{episodes.obs.shape[1]} dimensions", "as recorded" if config.obs_kind == "data" else config.obs_kind),
        ("action", f"{episodes.action.shape[1]} dimensions", "clipped to the declared range" if meta.action_low else "no declared range"),
        ("environment", meta.env or "none", "" if meta.env else "no simulator: see the report, and lwd diagnose"),
    ]
    if len(tasks) > 1:
        rows.append(("tasks", str(len(tasks)), "told to the model as one-hot vectors"))
    if config.mirror:
        rows.append(("mirror images", "yes", "every training episode is there twice"))
    if config.method.imagine and len(lengths) > 1 and lengths.min() == lengths.max() and "success_step" not in episodes.tags:
        why = "if they go on after their goal, the progress value is a clock, and policies get worse: cut them there, or tag `success_step`"
        rows.append(("progress", f"all episodes have {lengths[0]} steps", why))
    rows += _flat(episodes)
    why = "for validation and lwd diagnose" if held_out else "nothing can be validated: overfitting stays unseen"
    rows.append(("held out", f"{held_out or 'no'} episode{'s' * (held_out != 1)}", why))
    horizon, why = (config.horizon, "as set") if config.horizon else _horizon(config, episodes.lengths)
    span = getattr(config.method, "span", 1) if config.starts == "every" else 1
    drawn = f", in training {max(1, horizon // span)} to {horizon * span}" * (span > 1)
    rows.append(("horizon", f"{horizon} steps{drawn}", why))
    starts = episodes.steps if config.starts == "every" else len(episodes)
    stages: dict[str, Any] = {}
    for name, stage in config.method.stages.items():
        usual, passes, fewest, most = _STAGES[name]
        batch, steps, why = stage.batch or min(usual, starts), stage.steps, "as set"
        if not steps:
            wanted = -(-passes * starts // batch // 100) * 100  # in round hundreds
            steps, why = max(fewest, min(wanted, most)), f"{passes} passes over {starts:,} start steps"
            why += f", but at least {fewest:,} steps" if wanted < fewest else f", but at most {most:,} steps" if wanted > most else ""
        stages[name] = replace(stage, steps=steps, batch=batch)
        rows.append((name, f"{steps:,} steps of {batch} snippets", why))
    return replace(config, holdout=config.holdout if held_out else 0.0, horizon=horizon, method=replace(config.method, **stages)), rows


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


def _flat(episodes: Episodes) -> list[Row]:
    """Rows on dimensions that hardly vary, as the normaliser tells them apart."""
    from lwd.data.normalizer import CONSTANT, NARROWEST  # imports torch, which `lwd data show` does without

    rows = []
    reasons = ("they say nothing, and the model sees 0", "the policy always answers with the constant")
    parts = (("observations", episodes.obs, episodes.meta.angles), ("actions", episodes.action, ()))
    for (kind, values, angles), names, why in zip(parts, dimension_names(episodes), reasons, strict=True):
        linear = np.setdiff1d(np.arange(values.shape[1]), angles)
        half = np.ptp(values[:, linear], axis=0) / 2
        widest = min(1.0, float(half.max(initial=0.0)))
        constant = half <= CONSTANT * widest
        found = [(f"constant {kind}", linear[constant], why)]
        if kind == "observations":
            tiny = linear[~constant & (half < NARROWEST * widest)]
            found.append(("nearly constant", tiny, "their range is tiny: they are not scaled up to the size of the others"))
        for what, dimensions, reason in found:
            shown = [names[i] for i in dimensions[:8]] + ["..."] * (len(dimensions) > 8)
            rows += [(what, ", ".join(shown), reason)] if shown else []
    return rows


def dimension_names(episodes: Episodes) -> list[list[str]]:
    """Names of the dimensions of observation and action, where the environment has named them, otherwise their numbers."""
    named: list[tuple[str, ...]] = [(), ()]
    if episodes.meta.env is not None:
        with suppress(LWDError):  # the data can be used without its environment
            env = family(episodes.meta.env)
            named = [env.dimensions(episodes.meta.obs_kind), env.action_dimensions]
    widths = (episodes.obs.shape[1], episodes.action.shape[1])
    return [[*names, *map(str, range(len(names), width))][:width] for names, width in zip(named, widths, strict=True)]
