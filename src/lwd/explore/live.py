"""What one visitor of the page sees and does: the sides, side by side under the same hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lwd.config import EvalSettings, require
from lwd.explore.latents import LatentMap
from lwd.explore.side import Side
from lwd.policy import Generator

LARGEST = {"replan_every": 1000, "delay": 100, "imagine": 64}  # what the page may ask for at most


class Live:
    """A visit. `models` are the runs by name, the first one of which the map is."""

    def __init__(self, models: dict[str, Generator], task: str | None, seed: int, latents: LatentMap | None) -> None:
        first = next(iter(models.values()))
        every = min(own.horizon for own in models.values())
        self.settings, self.latents, self.seed = EvalSettings(replan_every=every), latents, seed
        self.sides = [Side(name, own, task, self.settings) for name, own in models.items()]
        self.kind, self.held = self.sides[0].kind, False
        self.about = {"env": first.method.spec.env, "fps": self.kind.fps, "score": self.kind.primary, "task": task}
        self._reset(None)

    def hello(self) -> dict[str, Any]:
        """All that a page needs to know before the first step."""
        sides = []
        for own in self.sides:
            count, world = own.method.policy_parameters, own.method.world is not None
            sides.append(
                {"name": own.name, "method": own.method.config.name, "run": str(own.own.run.path), "policy": count, "world": world}
            )
        settings = {name: getattr(self.settings, name) for name in (*LARGEST, "monitor", "disturb")}
        found = {"type": "hello", **self.about, "sides": sides, "settings": settings, "seed": self.seed, "movable": self.sides[0].movable}
        found |= {"scenes": [own.scene() for own in self.sides], "disturbances": self.kind.disturbances, "usual": self.kind.usual}
        return found | {"map": None if self.latents is None else self.latents.describe()}

    def tick(self) -> dict[str, Any]:
        """One step of every side."""
        told = [own.step() for own in self.sides]
        latent = self.sides[0].sampled
        if self.latents is not None and latent is not None and told[0]["cause"]:
            told[0]["latent"] = self.latents.place(latent)
        return {"type": "step", "sides": told}

    def obey(self, asked: Any) -> dict[str, Any]:
        """Does what a message wants, and returns what has changed.

        Raises:
            LWDError: a message that makes no sense, with what is wrong.
        """
        does: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "settings": self._settle,
            "reset": self._restart,
            "push": self._push,
            "hold": self._hold,
            "release": self._release,
        }
        kind = asked.get("type") if isinstance(asked, dict) else None
        require(isinstance(kind, str) and kind in does, f'a message is an object with a "type", one of {", ".join(does)}')
        return does[str(kind)](asked)

    def _settle(self, asked: dict[str, Any]) -> dict[str, Any]:
        changed: dict[str, Any] = {}
        for name, most in LARGEST.items():
            if name in asked:
                least = 1 if name == "replan_every" else 0
                fits = type(asked[name]) is int and least <= asked[name] <= most
                require(fits, f"{name} is a whole number from {least} to {most}, not {asked[name]!r}"[:200])
                changed[name] = asked[name]
        if "monitor" in asked:
            changed["monitor"] = _number(asked["monitor"], "monitor")
        if "disturb" in asked:
            require(isinstance(asked["disturb"], str), "disturb is text, NAME:MAGNITUDE")
            self.kind.check_disturbance(asked["disturb"])
            changed["disturb"] = asked["disturb"]
        anew, self.settings = changed.get("disturb", self.settings.disturb) != self.settings.disturb, replace(self.settings, **changed)
        for own in self.sides:
            own.settle(self.settings)
        if anew:  # the same disturbances on both sides
            self._reset(None)
        return self._shown(anew)

    def _restart(self, asked: dict[str, Any]) -> dict[str, Any]:
        seed = asked.get("seed", self.seed)
        require(type(seed) is int and 0 <= seed < 1 << 31, f"a seed is a whole number from 0 to {(1 << 31) - 1}")
        self.seed = seed
        self._reset(None)
        return self._shown(True)

    def _push(self, asked: dict[str, Any]) -> dict[str, Any]:
        by = asked.get("by")
        require(isinstance(by, list) and len(by) == 2, "a push is two numbers, in sides of the picture")
        vector = [_number(x, "a push", least=-1) for x in by]  # type: ignore[union-attr]
        require(self.sides[0].movable, f"nothing can be pushed in {self.kind.name}: choose a disturbance")
        for own in self.sides:
            own.push(vector)
        return {**self._shown(False), "pushed": True}

    def _hold(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The first side keeps to the policy of a point of the map, or of a place between points."""
        require(self.latents is not None, "this method has no latents")
        assert self.latents is not None
        state, number = None, asked.get("point")
        if number is None:
            place = asked.get("place")
            require(isinstance(place, list) and len(place) == 2, "a place is two numbers")
            latent = self.latents.latent([_number(x, "a place", least=-10) for x in place])  # type: ignore[union-attr]
        else:
            count = len(self.latents.places)
            require(type(number) is int and 0 <= number < count, f"a point is a whole number below {count}")
            latent, state = self.latents.at(number)
        self.sides[0].hold(latent)
        self.held = True
        anew = bool(asked.get("from_start")) and state is not None
        if anew:
            self._reset(state)
        return {**self._shown(anew), "latent": self.latents.place(latent)}

    def _release(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.sides[0].hold(None)
        self.held = False
        return self._shown(False)

    def _reset(self, state: Any) -> None:
        for own in self.sides:
            own.reset(self.seed, state)

    def _shown(self, anew: bool) -> dict[str, Any]:
        """What a page draws after a command: the scenes, and whether an episode has begun."""
        return {"type": "scene", "scenes": [own.scene() for own in self.sides], "anew": anew, "held": self.held, "seed": self.seed}


def _number(value: Any, what: str, least: float = 0.0) -> float:
    fits = type(value) in (int, float) and math.isfinite(value) and least <= value <= 1e3
    require(fits, f"{what} has a number from {least:g} to 1000, not {value!r}"[:200])
    return float(value)
