"""Demonstrations for pendulum_env.py from a few lines of control: python pendulum_record.py pendulum.npz"""

from __future__ import annotations

import sys

import numpy as np
from pendulum_env import FAMILY

from lwd.data.formats.npz import save_npz
from lwd.episodes import Episodes


def control(obs: np.ndarray) -> np.ndarray:
    """Swings up by adding energy, and balances when it is nearly up."""
    cosine, sine, speed = obs
    balance = -12.0 * sine - 3.0 * speed
    swing = (6.0 - (speed**2 / 6 + 5 * cosine)) * np.sign(speed)  # standing still on top it would have 5 J
    return np.array([balance if cosine > 0.9 else swing], np.float32).clip(FAMILY.action_low, FAMILY.action_high)


def record(episodes: int = 50) -> Episodes:
    """One episode for each of the reset seeds 0, 1, ...; evaluation uses seeds from 100000."""
    env, obs, action = FAMILY.make("state"), [], []
    for seed in range(episodes):
        seen, _ = env.reset(seed=seed)
        for _ in range(FAMILY.max_steps):
            obs.append(seen)
            action.append(control(seen))
            seen, *_ = env.step(action[-1])
    return Episodes(
        obs=np.array(obs),  # (N, 3), raw units: every step of every episode
        action=np.array(action),  # (N, 1)
        ends=FAMILY.max_steps * np.arange(1, episodes + 1),  # row after the last one of each episode
        tags={"seed": np.arange(episodes)},
        meta=FAMILY.meta("state", "synthetic: energy control"),
    )


if __name__ == "__main__":
    data = record()
    save_npz(data, sys.argv[1])
    print(f"{len(data)} episodes, {data.steps} steps")
