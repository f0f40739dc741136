"""Demonstrations of PushT beside which every step is there again with a corrected label, as CCIL makes them (arXiv 2310.12972).

    lwd train demo --data DATA --method.imagine --method.denoiser-width 128 --out runs/world
    python benchmarks/ccil.py --data DATA --world runs/world --out corrected.npz
    lwd train demo --data corrected.npz --method.denoiser-width 128 --method.policy-noise 0 --out runs/corrected

For a step from s to s' the action gets noise, and the world model is asked from which state beside s the noisy action would have led to
the same s': x + f(x, a + noise) = s', solved by iteration. Pairs (x, a + noise) teach what to do beside the path. A pair counts where the
iteration ends, where the members of the world model agree, and where x is near s; elsewhere the demonstrated pair stays. What is written
has all demonstrations, and copies of them with the corrected pairs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lwd
from lwd.data.formats.npz import save_npz
from lwd.data.read import read
from lwd.envs.base import family
from lwd.envs.pusht.geometry import keypoints_to_state
from lwd.episodes import Episodes, concatenate

ITERATIONS, RESIDUAL = 30, 0.5  # of the search for a start; how far from s' its end may lie, in units of a typical change


def corrected(method: Any, episodes: Episodes, noise: float, near: float, generator: torch.Generator) -> tuple[Episodes, dict[str, float]]:
    """Copies of the episodes (state), with corrected pairs. `noise` is the standard deviation on the action, in units of its half range;
    `near` the largest distance of the new state, as a multiple of a typical change in one step."""
    world, env = method.world, family("pusht")
    seen = env.convert(episodes, "keypoints")
    obs = method.normalizer.encode_obs(torch.as_tensor(seen.obs))
    last = torch.as_tensor(episodes.ends) - 1
    following = obs[1:]
    now, action = obs[:-1], method.normalizer.encode_action(torch.as_tensor(episodes.action))[:-1]
    wanted = action + noise * torch.randn(action.shape, generator=generator)
    x = now.clone()
    for _ in range(ITERATIONS):
        x = x + 0.5 * (following - world.step(x, wanted).mean(0))
    each = world.step(x, wanted)

    def size(change: torch.Tensor) -> torch.Tensor:
        return (change / world.change).square().mean(-1).sqrt()

    kept = (size(each.mean(0) - following) < RESIDUAL) & (world.disagreement(each) < 3 * world.doubt) & (size(x - now) < near)
    kept[last[:-1]] = False  # what follows the last step is another episode
    points = method.normalizer.decode_obs(x).numpy()
    raw = method.normalizer.decode_action(wanted).numpy()
    state, pairs, rows = episodes.obs.copy(), episodes.action.copy(), torch.nonzero(kept)[:, 0].numpy()
    state[rows], pairs[rows] = keypoints_to_state(points[rows]), raw[rows]
    moved = np.abs(state[rows, :4] - episodes.obs[rows, :4])
    facts = {
        "kept": len(rows) / len(episodes.obs),
        "agent_moved_px": float(moved[:, :2].mean()),
        "block_moved_px": float(moved[:, 2:].mean()),
        "action_moved_px": float(np.abs(pairs - episodes.action)[rows].mean()),
    }
    return Episodes(state, pairs, episodes.ends, episodes.task, episodes.tags, episodes.meta), facts


def main() -> None:
    parser = argparse.ArgumentParser(description="Demonstrations with labels corrected through a world model.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--world", required=True, help="a run with a world model (--method.imagine)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--near", type=float, default=4.0)
    args = parser.parse_args()
    episodes, method = read(args.data), lwd.load(args.world).method
    with torch.inference_mode():
        copies, facts = corrected(method, episodes, args.noise, args.near, torch.Generator().manual_seed(0))
    save_npz(concatenate([episodes, copies]), args.out)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
