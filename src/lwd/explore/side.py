"""One model at work in its own copy of the environment, for as long as somebody looks at it."""

from __future__ import annotations

import base64
import io
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from lwd.config import EvalSettings
from lwd.control import CAUSES, ControlLoop
from lwd.envs.base import family
from lwd.methods.base import ENDLESS, Method
from lwd.methods.wrappers import imagining, monitored, wrapped
from lwd.policy import Generator
from lwd.timing import flops

PICTURE = 320  # pixels, longer side of the picture of an environment that cannot be drawn


class Held:
    """A planner that always answers with the policies of one latent (Z,)."""

    def __init__(self, method: Method, latent: Tensor) -> None:
        self.method, self.latent, self.history, self.horizon = method, latent, method.history, method.horizon

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Any = None) -> Any:
        """(B, K, Do) -> B times the same policy."""
        made: Any = self.method
        return made.controller(self.latent.repeat(len(history), 1))


class Side:
    """A run that acts in its environment. `settings` are what the next plans are made with; a chunk that is too short for them is asked
    for as often as it must be."""

    def __init__(self, name: str, own: Generator, task: str | None, settings: EvalSettings) -> None:
        self.name, self.own, self.method, self.task = name, own, own.method, task
        self.kind, self.obs_kind = family(str(own.method.spec.env)), own.method.spec.obs_kind
        self.raw = self.kind.make(self.obs_kind, task) if self.kind.tasks else self.kind.make(self.obs_kind)
        self.latent: Tensor | None = None  # one that is held, instead of those that the model samples
        self.settle(settings)

    def settle(self, settings: EvalSettings) -> None:
        """From now on, plans are made as the settings say. Another disturbance begins with the next `reset`."""
        method, self.settings = self.method, settings
        if method.world is None:
            settings = replace(settings, imagine=0, monitor=0.0)
        with torch.inference_mode():
            method.ask_for(settings)
            planner: Any = wrapped(method, settings) if self.latent is None else Held(method, self.latent)
            history = torch.zeros(1, method.history, method.spec.obs_dim)
            made = planner.plan(history, self._tasks, torch.Generator())
            last = made.horizon if made.horizon < ENDLESS else settings.replan_every + settings.delay
            delay = min(settings.delay, last - 1)
            self.asks = replace(settings, delay=delay, replan_every=min(settings.replan_every, last - delay))
            now = torch.zeros(1, dtype=torch.int64)
            self.flops = flops(planner.plan, history, self._tasks, torch.Generator()), flops(made.act, history[:, -1], now)
        self.imagining = imagining(planner)
        monitor = None if self.latent is not None else monitored(method, settings)
        every, how = self.asks.replan_every, {"delay": delay, "monitor": monitor, "generators": self.own.generator}
        self.loop = ControlLoop(planner, every, tasks=self._tasks, **how)  # type: ignore[arg-type]

    @property
    def _tasks(self) -> list[str] | None:
        return None if self.task is None else [self.task]

    def reset(self, seed: int, state: ArrayLike | None = None) -> None:
        """A new episode, from a seed or, where the family can, from an exact state (S,)."""
        self.env, self.seed = self.kind.disturb(self.raw, self.settings.disturb, self.obs_kind), seed
        self.obs = self.env.reset(seed=seed, options=None if state is None else {"state": state})[0]
        self.infos = defaultdict[str, deque[float]](lambda: deque(maxlen=self.kind.max_steps))
        self.steps = self.queries = self.spent = 0  # and FLOPs
        self.ended = False
        self.loop.reset()

    def step(self) -> dict[str, Any]:
        """One control step; returns what there is to tell of it. Where nothing can be pushed, an episode that has ended begins anew, with
        the next seed; elsewhere it goes on."""
        if self.ended:
            self.reset(self.seed + 1)
        begin, asked = perf_counter(), len(self.loop.plan_ms)
        self.method.ask_for(self.asks)
        with torch.inference_mode():
            action = self.loop.act(torch.as_tensor(self.obs, dtype=torch.float32)[None])[0].numpy()
        spent, planned = 1e3 * (perf_counter() - begin), sum(self.loop.plan_ms[asked:])
        del self.loop.plan_ms[:]
        self.obs, reward, terminated, truncated, told = self.env.step(np.clip(action, self.kind.action_low, self.kind.action_high))
        for key in self.kind.info_keys:
            self.infos[key].append(float(told[key]))
        self.infos["reward"].append(float(reward))
        self.steps, cause = self.steps + 1, CAUSES[int(self.loop.causes[0])]
        self.queries += bool(cause)
        self.spent += self.flops[0] * bool(cause) + self.flops[1]
        self.ended = bool(terminated or truncated) and not self.movable
        report: dict[str, Any] = {"step": self.steps, "cause": cause, "age": int(self.loop.ages[0]), "queries": self.queries}
        report |= {"every": self.asks.replan_every, "delay": self.asks.delay, "act_ms": spent - planned, **self.score(), **self.scene()}
        report |= {"flops": self.spent / self.steps, "displaced": bool(told.get("displaced", 0))}
        if cause:
            report |= {"query_ms": planned, **self._futures()}
        return report

    def score(self) -> dict[str, Any]:
        """How the episode goes, over its last `max_steps` steps: the score that decides, and what a video draws as a curve."""
        infos = {key: list(values) for key, values in self.infos.items()}
        curve = self.kind.curve({key: infos[key] for key in self.kind.trace if key in infos}) if infos else []
        scores = self.kind.summarise(infos) if infos else {}
        return {"now": curve[-1] if curve else None, "score": scores.get(self.kind.primary)}

    def scene(self) -> dict[str, Any]:
        """What there is to see: shapes where the family can tell them, or a picture."""
        if (shapes := self.kind.scene(self.raw)) is not None:
            return {"scene": shapes}
        buffer, picture = io.BytesIO(), Image.fromarray(np.asarray(self.raw.render(), np.uint8))
        picture.thumbnail((PICTURE, PICTURE))
        picture.save(buffer, "JPEG")
        return {"picture": base64.b64encode(buffer.getvalue()).decode()}

    @property
    def movable(self) -> bool:
        """Whether a hand can move something here."""
        return hasattr(self.raw.unwrapped, "displace") and self.kind.scene(self.raw) is not None

    def push(self, by: Sequence[float]) -> None:
        """A hand moves what can be moved, by (2,) of the picture's sides; the policy sees it in the next observation."""
        raw: Any = self.raw.unwrapped
        raw.displace(np.asarray(by) * self.kind.side)
        with suppress(AttributeError):  # an environment that cannot tell it: its policy sees it one step later
            self.obs = raw.get_obs()

    def hold(self, latent: Tensor | None) -> None:
        """Keeps to the policy of a latent (Z,), in the encoder's units; None samples again."""
        self.latent = latent
        self.settle(self.settings)

    @property
    def sampled(self) -> Tensor | None:
        """The latent (Z,) that the last plan was decoded from, where the method has one."""
        found = getattr(getattr(self.loop, "controller", None), "latent", None)
        return None if found is None else found[0]

    def _futures(self) -> dict[str, Any]:
        """What the last query has considered, as lines in the picture."""
        if self.imagining is None:
            return {}
        seen, best = self.imagining.considered()
        places = self.kind.trail(self.obs_kind, seen.numpy().astype(np.float64))
        return {} if places is None else {"futures": np.round(places[0], 3).tolist(), "chosen": int(best[0])}
