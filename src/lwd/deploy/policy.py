"""A policy as a file, and its control step in numpy: what runs one needs numpy and nothing else, neither torch nor the rest of lwd.

A file has the safetensors format: eight bytes with the length of the header (little-endian), the header (JSON), the tensors. All tensors
are vectors, little-endian, in the order of the header and without gaps. Do and Da are the observed and the action dimensions:

    sizes        int32    (n,)  neurons of the layers, inputs first and outputs (Da) last
    weights      float32  (P,)  for each layer the matrix (in, out), row by row, then the bias (out,)
    order        int32    (Do,) the linear dimensions of the observation, then its angles (radians)
    obs_center, obs_scale         float32  of the linear dimensions: feature = (raw - center) * scale, clipped to ± obs_limit (1,)
    action_center, action_half    float32  (Da,) raw action = output * half + center, clipped to action_low, action_high (Da,)
    phase_steps  float32  (1,)  steps over which the last input goes from -1 to 1; 0: the policy does not see its phase

The inputs are the linear features, the cosines and the sines of the angles, and the phase. Hidden layers end with ReLU. What people want to
know (names, units, rate, where the policy comes from) is in the header's metadata, whose values are strings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.errors import LWDError

FORMAT = {"format": "lwd-policy", "version": "1"}
REAL = ("weights", "obs_center", "obs_scale", "obs_limit", "action_center", "action_half", "action_low", "action_high", "phase_steps")
KINDS = dict.fromkeys(("sizes", "order"), "I32") | dict.fromkeys(REAL, "F32")  # in the order of the file
DTYPES = {"I32": np.dtype("<i4"), "F32": np.dtype("<f4")}
ALIGNMENT = 64  # bytes to a multiple of which the tensors begin: a cache line


class Policy:
    """One policy, in raw units. It keeps its buffers between steps, so a thread needs its own.

    Args:
        tensors: the vectors that the head of this file describes.
        about: the metadata: lists of `obs_names` and `action_names` as JSON, `units` in words, `rate` in steps per second (empty where
            nobody knows it), and anything else that is worth keeping.

    Raises:
        LWDError: shapes, types or values that are no policy.
    """

    def __init__(self, tensors: Mapping[str, ArrayLike], about: dict[str, str]) -> None:
        if wrong := set(tensors) ^ set(KINDS):
            raise LWDError(f"a policy consists of the tensors {', '.join(KINDS)}: {', '.join(sorted(wrong))} is missing or too much")
        self.tensors = {name: np.ascontiguousarray(tensors[name], DTYPES[kind]) for name, kind in KINDS.items()}
        self.about = {**about, **FORMAT}
        _check(self.tensors)
        self.sizes = tuple(self.tensors["sizes"].tolist())
        self.obs_dim, self.action_dim = len(self.tensors["order"]), self.sizes[-1]
        self.obs_names, self.action_names, self.rate = _names_and_rate(self.about, (self.obs_dim, self.action_dim))
        self._prepare()

    @np.errstate(all="ignore")
    def _prepare(self) -> None:
        """Buffers, and per layer one matrix (in + 1, out) with the bias as its last row: its input ends with a one. The last one gives raw
        actions."""
        own, linear, at = {name: np.array(value) for name, value in self.tensors.items()}, len(self.tensors["obs_center"]), 0
        self._linear, self._angular = own["order"][:linear], own["order"][linear:]
        self._plain = self._linear.tolist() == list(range(self.obs_dim))
        self._center, self._scale, self._most, self._least = own["obs_center"], own["obs_scale"], own["obs_limit"][0], -own["obs_limit"][0]
        self._low, self._high, self._phase = own["action_low"], own["action_high"], float(own["phase_steps"][0])
        self._input = x = np.ones(self.sizes[0] + 1, np.float32)
        self._features, self._cos = x[:linear], x[linear : self.obs_dim]
        self._sin = x[self.obs_dim : self.obs_dim + len(self._cos)]
        self._hidden = []
        for inputs, outputs in pairwise(self.sizes):
            matrix: NDArray[Any] = own["weights"][at : at + (inputs + 1) * outputs].reshape(inputs + 1, outputs)
            y = np.ones(outputs + 1, np.float32)
            self._hidden.append((x, matrix, y[:-1]))
            x, at = y, at + matrix.size
        seen, matrix, self._raw = self._hidden.pop()
        matrix = matrix * own["action_half"]
        matrix[-1] += own["action_center"]
        self._last = seen, matrix
        self._zero, self._no_obs, self._no_action = np.float32(0), np.zeros(self.obs_dim, np.float32), np.zeros(self.action_dim, np.float32)

    @np.errstate(all="ignore")
    def act(self, obs: ArrayLike, t: int = 0) -> NDArray[np.float32]:
        """Raw observation (Do,) -> raw action (Da,), float32. `t` counts the steps since the observation that the policy was made from.

        Raises:
            LWDError: another shape, or a number that is not finite.
        """
        raw = np.asarray(obs, np.float32)
        if raw.shape != self._no_obs.shape or t < 0:
            raise LWDError(f"act needs an observation of shape ({self.obs_dim},) and t >= 0, not {raw.shape} and {t}")
        if np.dot(raw, self._no_obs) != 0:  # infinity times zero is NaN
            raise LWDError("the observation holds a value that is NaN or infinite")
        x = self._features
        if self._plain:
            np.subtract(raw, self._center, out=x)
        else:
            np.subtract(raw[self._linear], self._center, out=x)
            angles = raw[self._angular]
            np.cos(angles, out=self._cos)
            np.sin(angles, out=self._sin)
        np.multiply(x, self._scale, out=x)
        np.minimum(x, self._most, out=x)
        np.maximum(x, self._least, out=x)
        if self._phase:
            self._input[-2] = 2 * min(t / self._phase, 1.0) - 1
        for x, matrix, y in self._hidden:
            np.dot(x, matrix, out=y)
            np.maximum(y, self._zero, out=y)
        np.dot(*self._last, out=self._raw)
        action = np.maximum(np.minimum(self._raw, self._high), self._low)
        if np.dot(action, self._no_action) != 0:
            raise LWDError("the policy's action is not a number: the observation is too far away, or the weights are too large")
        return action

    def to_bytes(self) -> bytes:
        """The policy as the content of a file."""
        header: dict[str, Any] = {"__metadata__": self.about}
        end = 0
        for name, kind in KINDS.items():
            begin, end = end, end + self.tensors[name].nbytes
            header[name] = {"dtype": kind, "shape": [len(self.tensors[name])], "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        return len(text).to_bytes(8, "little") + text + b"".join(self.tensors[name].tobytes() for name in KINDS)


def parse(content: bytes) -> Policy:
    """The policy that the content of a file holds; `LWDError` for anything that is not one to the last byte."""
    length = int.from_bytes(content[:8], "little")
    _require(len(content) >= 8 and length <= len(content) - 8, "the header is cut off")
    try:
        header = json.loads(content[8 : 8 + length].decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise LWDError(f"the header is no JSON ({error})") from None
    about: Any = header.pop("__metadata__", None) if isinstance(header, dict) else None
    data, end = content[8 + length :], 0
    _require(isinstance(about, dict) and all(isinstance(text, str) for text in about.values()), "the header has no metadata of strings")
    _require({key: about.get(key) for key in FORMAT} == FORMAT, f"its metadata does not say {FORMAT}")
    _require(set(header) == set(KINDS), f"its tensors are not {', '.join(KINDS)}")
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        kind, begin = KINDS[name], end
        shape: Any = entry.get("shape") if isinstance(entry, dict) else None
        _require(isinstance(shape, list) and len(shape) == 1 and type(shape[0]) is int, f"{name} is no vector")
        end = begin + 4 * shape[0]
        wanted = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
        _require(entry == wanted and begin <= end <= len(data), f"{name} should be {wanted} within {len(data)} bytes, not {entry}")
        tensors[name] = np.frombuffer(data, DTYPES[kind], shape[0], begin)
    _require(end == len(data), f"{len(data) - end} bytes follow the last tensor")
    return Policy(tensors, about)


def load_policy(path: str | Path) -> Policy:
    """The policy in a file that `lwd generate` wrote; `LWDError` says what is wrong with another file."""
    try:
        return parse(Path(path).read_bytes())
    except (LWDError, OSError) as error:
        raise LWDError(f"{path} is no policy: {error}; `lwd generate` writes policies") from None


def _check(own: dict[str, NDArray[Any]]) -> None:
    """Refuses shapes and values that do not fit together."""
    for name, value in own.items():
        _require(value.ndim == 1 and bool(np.isfinite(value).all()), f"{name} is no vector of finite numbers")
    sizes, order = own["sizes"].tolist(), own["order"].tolist()
    _require(len(sizes) >= 2 and min(sizes) >= 1, f"layers of {sizes} neurons are no network")
    _require(sorted(order) == list(range(len(order))), f"order does not name every observed dimension once: {order}")
    linear = len(own["obs_center"])
    counts = {"obs_scale": linear, "weights": sum((a + 1) * b for a, b in pairwise(sizes)), "obs_limit": 1, "phase_steps": 1}
    counts |= dict.fromkeys(("action_center", "action_half", "action_low", "action_high"), sizes[-1])
    for name, count in counts.items():
        _require(len(own[name]) == count, f"{name} has {len(own[name])} numbers instead of {count}")
    limit, phase = float(own["obs_limit"][0]), float(own["phase_steps"][0])
    inputs = 2 * len(order) - linear + (phase > 0)
    _require(linear <= len(order) and inputs == sizes[0], f"the first layer has {sizes[0]} inputs instead of {inputs}")
    _require(limit > 0 and phase >= 0, f"obs_limit {limit:g} or phase_steps {phase:g} is out of range")
    _require(bool((own["action_low"] <= own["action_high"]).all()), "action_low lies above action_high")


def _names_and_rate(about: Mapping[str, str], counts: tuple[int, int]) -> tuple[list[str], list[str], float | None]:
    """Names of the observed and of the action dimensions, and the rate, from the metadata."""
    try:
        obs, action, rate = json.loads(about["obs_names"]), json.loads(about["action_names"]), float(about.get("rate") or 0)
    except (KeyError, ValueError, RecursionError) as error:
        raise LWDError(f"its metadata has no names of dimensions, or no rate ({error!r})") from None
    fits = all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in (obs, action))
    _require(
        fits and (len(obs), len(action)) == counts, f"its metadata does not name {counts[0]} observed and {counts[1]} action dimensions"
    )
    _require(0 <= rate < np.inf, f"its rate is no number of steps per second: {rate}")
    return obs, action, rate or None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of the header; a key that stands there twice is refused."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise LWDError(message)
