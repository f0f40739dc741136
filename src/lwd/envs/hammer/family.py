"""AdroitHandHammer: a hand takes a hammer and drives a nail into a board, whose height is another one in every episode."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lwd.envs.base import Score
from lwd.envs.mujoco import MujocoFamily, Simulated, import_robotics, simulator

IMPACT = 0.8  # of the sensor on the nail, above which it counts as hit (appendix G.3)
LIFTED = 0.04  # metres: the hammer's height above which it counts as lifted; it lies at 0.03
_FINGERS = {"FF": 3, "MF": 3, "RF": 3, "LF": 4, "TH": 4}  # first, middle, ring, little finger and thumb: number of the joint at the palm
_JOINTS = ("ARRx", "ARRy", "WRJ1", "WRJ0", *(f"{finger}J{joint}" for finger, last in _FINGERS.items() for joint in range(last, -1, -1)))


class HammerEnv(Simulated):
    """`info` holds `success`, the hammer's `height` and the nail's `distance` from its goal in metres, and the `impact` on the nail."""

    def __init__(self, kind: Any) -> None:
        super().__init__(kind)
        self.body = int(self.world.target_body_id)  # the board

    def told(self, obs: NDArray[np.float64], info: dict[str, Any]) -> dict[str, float]:
        nail, goal = (self.world.data.site_xpos[site] for site in (self.world.target_obj_site_id, self.world.goal_site_id))
        distance = float(np.linalg.norm(nail - goal))
        return {"success": float(info["success"]), "height": float(obs[38]), "distance": distance, "impact": float(obs[45])}


class Hammer(MujocoFamily):
    """Observations (46) are the angles of arm and hand (26), how far the nail is in, the hammer's velocity (6), the places of palm, hammer
    (with its orientation) and nail, and the impact on the nail. Actions are the wanted angles, from -1 to 1 over the range of each."""

    name: ClassVar[str] = "hammer"
    extra: ClassVar[str] = "adroit"
    max_steps: ClassVar[int] = 200
    fps: ClassVar[int] = 100
    aliases: ClassVar[tuple[str, ...]] = ("gymnasium:AdroitHandHammer-v1",)
    action_dimensions: ClassVar[tuple[str, ...]] = _JOINTS
    action_low: ClassVar[tuple[float, ...]] = (-1.0,) * 26
    action_high: ClassVar[tuple[float, ...]] = (1.0,) * 26
    info_keys: ClassVar[tuple[str, ...]] = ("success", "height", "distance", "impact")
    scores: ClassVar[dict[str, Score]] = {
        "success": "rate",
        "object_height": "mean",
        "alignment_error": "mean",
        "max_impact": "mean",
        "contact_ratio": "mean",
        "manipulation": "mean",
        "return": "mean",
    }
    primary: ClassVar[str] = "success"
    policies: ClassVar[dict[str, str]] = {"expert": "hammer_dapg_policy.npz", "medium": "hammer_dapg_policy.npz@1.3", "random": "uniform"}

    def make(self, obs_kind: str, task: str | None = None) -> gymnasium.Env:
        self.check_obs_kind(obs_kind)
        with simulator(self.extra):
            import_robotics()
            from gymnasium_robotics.envs.adroit_hand.adroit_hammer import AdroitHandHammerEnv

            return HammerEnv(AdroitHandHammerEnv)

    def dimensions(self, obs_kind: str) -> tuple[str, ...]:
        parts = {"hammer velocity": "xyz", "hammer turn": "xyz", "palm": "xyz", "hammer": "xyz", "hammer angle": "xyz", "nail": "xyz"}
        return (*_JOINTS, "nail depth", *(f"{part} {axis}" for part, axes in parts.items() for axis in axes), "impact")

    def summarise(self, infos: dict[str, list[float]]) -> dict[str, float]:
        """Success at any step, and the five metrics of appendix G.3."""
        height, impact = np.array(infos["height"]), np.array(infos["impact"])
        return {
            "success": max(infos["success"]),
            "object_height": float(height.mean()),
            "alignment_error": float(np.mean(infos["distance"])),
            "max_impact": float(impact.max()),
            "contact_ratio": float((impact > IMPACT).mean()),
            "manipulation": float((height > LIFTED).mean()),
            **super().summarise(infos),
        }


FAMILY = Hammer()
