"""Policies of others: weights in an .npz file, a Stable-Baselines3 zip, a function of one's own, or uniform actions.

A policy is named `uniform`, `FILE.npz`, `FILE.zip` or `MODULE:ATTRIBUTE`. After a file, `@relu` or `@tanh` is the activation of a network
where it is not that of its algorithm, and `@2` draws with twice the policy's own standard deviation (`@0`: it acts by its mean)."""

from __future__ import annotations

import importlib
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.config import require
from lwd.envs.base import import_own, missing
from lwd.errors import LWDError

Array = NDArray[np.float64]
Source = str | Callable[[Array], Any]  # the name of a policy, or a function from an observation (Do,) to an action (Da,)
_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}


@dataclass(frozen=True)
class Policy:
    """`draw` gives an action (Da,) for an observation (Do,). What is random comes from the generator, but for a user's function."""

    draw: Callable[[Array, np.random.Generator], ArrayLike]
    inputs: int = 0  # numbers of an observation that it takes; 0: it does not tell


def load(source: Source, folder: Path, low: Array, high: Array) -> Policy:
    """The policy of that name, whose file is in `folder`. Its actions (Da,) lie between `low` and `high`; the caller clips them."""
    if callable(source):
        return _function(source)
    name, activation, number = re.fullmatch(r"(.*?)(?:@(relu|tanh))?(?:@(\d+(?:\.\d+)?))?", source).groups()  # type: ignore[union-attr]
    path, spread = folder / name, None if number is None else float(number)
    if path.suffix in (".npz", ".zip"):
        require(path.is_file(), f"{path} is missing: a policy is FILE.npz, FILE.zip, MODULE:ATTRIBUTE, or uniform")
        if path.suffix == ".npz":
            return _network(path, activation, spread, low, high)
        require(not activation and spread in (None, 0, 1), f"{source}: a zip may have @0 or @1, and knows the rest itself")
        return _stable_baselines(path, spread == 0)
    plain = name == source and (name == "uniform" or ":" in name)
    require(plain, f"{source!r} is no policy: FILE.npz or FILE.zip, with @relu, @tanh or @NUMBER after it, MODULE:ATTRIBUTE, or uniform")
    return _function(_imported(name)) if name != "uniform" else Policy(lambda obs, rng: rng.uniform(low, high))


class _Weights:
    """The arrays of a file, by key. Nothing is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.arrays: dict[str, NDArray[Any]] = dict(np.load(file, allow_pickle=False))
        except Exception as error:  # what is raised depends on what is wrong with the file
            raise LWDError(f"{path} cannot be read as weights: it is damaged, pickled, or no .npz file ({error})") from error

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def take(self, key: str, *shape: int) -> Array:
        """An array of that shape, in which 0 stands for any size."""
        require(key in self, f"{self.path} has no {key}: it has {', '.join(sorted(self.arrays)) or 'nothing'}")
        array = self.arrays[key]
        fits = array.dtype.kind in "fiub" and array.ndim == len(shape) and all(w in (0, n) for w, n in zip(shape, array.shape, strict=True))
        wanted = tuple(size or "any" for size in shape)
        require(fits, f"{self.path}: {key} is {array.dtype} of shape {array.shape}, which should be numbers of shape {wanted}")
        require(bool(np.isfinite(array).all()), f"{self.path}: {key} has values that are not finite")
        return array.astype(np.float64)

    def numbered(self, pattern: str) -> list[str]:
        """Keys of that pattern, in the order of the number in them."""
        found = {int(match[1]): key for key in self.arrays if (match := re.fullmatch(pattern, key))}
        return [found[number] for number in sorted(found)]


def _network(path: Path, activation: str | None, spread: float | None, low: Array, high: Array) -> Policy:
    """A network with the keys that its state dict has in Stable-Baselines3: of SAC and TQC (`actor.latent_pi...`, `actor.mu`), or of PPO,
    TRPO and ARS (`mlp_extractor.policy_net...`, `action_net`), with `obs_mean`, `obs_var`, `eps` and `clip_obs` where it saw normalised
    observations; or with the keys of mjrl (`W0`, `b0`, ..., `in_shift`, `in_scale`, `out_shift`, `out_scale`, `log_std`)."""
    file, count = _Weights(path), len(low)
    squashed, plain = "actor.mu.weight" in file, "W0" in file
    hidden = r"actor\.latent_pi\.(\d+)\.weight" if squashed else r"mlp_extractor\.policy_net\.(\d+)\.weight"
    keys = file.numbered(r"W(\d+)") if plain else [*file.numbered(hidden), "actor.mu.weight" if squashed else "action_net.weight"]
    layers, width = list[tuple[Any, Any]](), 0
    for key in keys:
        weight = file.take(key, 0 if key != keys[-1] else count, width)
        bias = key.replace("W", "b") if plain else f"{key[:-6]}bias"
        width = len(weight)
        linear = len(keys) == 1 and bias not in file  # as ARS has it
        layers.append((weight.astype(np.float32), np.float32(0) if linear else file.take(bias, width).astype(np.float32)))
    inputs, wide = layers[0][0].shape[1], layers[-1][0].shape[1]
    shift, scale, limit, out_shift, out_scale = (np.zeros(inputs), np.ones(inputs), np.inf, np.zeros(count), np.ones(count))
    if plain:
        shift, scale = file.take("in_shift", inputs), file.take("in_scale", inputs) + 1e-8
        out_shift, out_scale = file.take("out_shift", count), file.take("out_scale", count)
    elif "obs_mean" in file and file.arrays.get("norm_obs", True):
        shift, scale = file.take("obs_mean", inputs), np.sqrt(file.take("obs_var", inputs) + file.take("eps"))
        limit = float(file.take("clip_obs"))
    slope, offset = np.zeros((count, wide)), None  # of the logarithm of the standard deviation
    if squashed:
        slope, offset = file.take("actor.log_std.weight", count, wide), file.take("actor.log_std.bias", count)
    elif "log_std" in file:
        offset = file.take("log_std", count)
    require(offset is not None or spread is None, f"{path} holds no standard deviation to multiply: leave out @{spread or 0:g}")
    factor, act = 1.0 if spread is None else spread, _ACTIVATIONS[activation or ("relu" if squashed else "tanh")]

    def draw(obs: Array, rng: np.random.Generator) -> Array:
        x = np.clip((obs - shift) / scale, -limit, limit).astype(np.float32)
        for weight, bias in layers[:-1]:
            x = act(weight @ x + bias)
        weight, bias = layers[-1]
        action = (weight @ x + bias) * out_scale + out_shift
        if offset is not None:
            action = action + factor * np.exp(np.clip(slope @ x + offset, -20, 2)) * rng.standard_normal(count)
        return low + (np.tanh(action) + 1) / 2 * (high - low) if squashed else action

    return Policy(draw, inputs)


def _stable_baselines(path: Path, mean: bool) -> Policy:
    """A policy that Stable-Baselines3 saved. Its library unpickles parts of the file: it must come from somebody who is trusted."""
    try:
        with zipfile.ZipFile(path) as archive:
            package, _, rest = json.loads(archive.read("data"))["policy_class"]["__module__"].partition(".")
        own = rest.split(".")[0].upper()
        library: Any = importlib.import_module(package if package in ("stable_baselines3", "sb3_contrib") else "stable_baselines3")
        kind = getattr(library, own if hasattr(library, own) else "PPO")  # A2C, PPO and TRPO share a kind of policy, and act alike
        old: dict[str, Any] = dict.fromkeys(("lr_schedule", "clip_range"), lambda _: 0.0)  # (pickled code of another version of Python)
        model = kind.load(path, device="cpu", custom_objects={**old, "learning_rate": 0.0})
    except ImportError as error:
        raise missing("sb3", error) from error
    except Exception as error:
        raise LWDError(f"{path} cannot be read as a policy of Stable-Baselines3 ({type(error).__name__}: {error})") from error

    def draw(obs: Array, rng: np.random.Generator) -> ArrayLike:
        if not mean:
            import torch

            torch.manual_seed(int(rng.integers(2**31)))
        return model.predict(obs, deterministic=mean)[0]

    return Policy(draw, model.observation_space.shape[0])


def _function(source: Callable[[Array], Any]) -> Policy:
    """A user's function, or an object that has one named `predict`, which may return a pair, the action and something else."""
    predict = getattr(source, "predict", source)

    def draw(obs: Array, rng: np.random.Generator) -> ArrayLike:
        found = predict(obs)
        return found[0] if isinstance(found, tuple) else found

    return Policy(draw)


def _imported(name: str) -> Any:
    """The attribute of a module of the user's own, as `MODULE:ATTRIBUTE`."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_own(module), attribute)
    except (ImportError, AttributeError) as error:
        raise LWDError(f"the policy {name!r} cannot be imported: {error}") from error
    require(callable(getattr(found, "predict", found)), f"{name} is no policy: neither a function nor an object with `predict(obs)`")
    return found
