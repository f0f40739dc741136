"""What a control step costs, amortised: LWD beside LeRobot's DiffusionPolicy at its own defaults, on PushT's key points, one CPU thread.

    python -m venv lerobot-venv && lerobot-venv/bin/pip install lerobot==0.4.4
    python benchmarks/lerobot_speed.py --lerobot-python lerobot-venv/bin/python

LeRobot: `select_action` of `DiffusionConfig()` for a state of 2 and an environment state of 16 numbers (U-Net 512, 1024, 2048; 100 DDPM
steps; 8 of 16 actions are executed), over whole chunks. LWD: the presets `pusht` and `pusht-fast`, a query every 8 and every 32 steps, and
the steps between in torch. Weights are random: the speed does not depend on the training. The two take turns in one run.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
import tyro

from lwd.data.prepare import choose, load_data, make_spec
from lwd.files import write_json
from lwd.methods.base import make_method
from lwd.presets import PRESETS
from lwd.timing import hardware

LEROBOT = """
import json, sys, time
from importlib.metadata import version
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
torch.set_num_threads(1)
state, env, action = "observation.state", "observation.environment_state", "action"
inputs = {state: PolicyFeature(FeatureType.STATE, (2,)), env: PolicyFeature(FeatureType.ENV, (16,))}
config = DiffusionConfig(input_features=inputs, output_features={action: PolicyFeature(FeatureType.ACTION, (2,))}, device="cpu")
policy = DiffusionPolicy(config).eval()
obs = {state: torch.zeros(1, 2), env: torch.zeros(1, 16)}
about = {"lerobot": version("lerobot"), "torch": torch.__version__, "parameters": sum(p.numel() for p in policy.parameters()),
         "actions": config.n_action_steps, "horizon": config.horizon,
         "steps": policy.diffusion.num_inference_steps, "down_dims": config.down_dims}
print(json.dumps(about), flush=True)
for _ in sys.stdin:
    begin = time.perf_counter()
    with torch.inference_mode():
        for _ in range(config.n_action_steps):
            policy.select_action(obs)
    print(json.dumps(1e3 * (time.perf_counter() - begin) / config.n_action_steps), flush=True)
"""


def planner(preset: str) -> tuple[Any, torch.Tensor]:
    """An untrained model of a preset, and a history (1, K, Do)."""
    config = replace(PRESETS[preset][1], data="embedded", holdout=0.0)
    training, _ = load_data(config)
    config, _ = choose(config, training, 0)
    method = make_method(config.method, make_spec(config, training)).eval().requires_grad_(False)
    return method, torch.from_numpy(training.obs[:1])[None]


def amortised(method: Any, history: torch.Tensor, every: int) -> float:
    """Milliseconds of a step of an interval: its query, and `every` actions."""
    begin = perf_counter()
    with torch.inference_mode():
        controller = method.plan(history)
        for t in range(every):
            controller.act(history[:, -1], torch.tensor([t]))
    return 1e3 * (perf_counter() - begin) / every


def main(lerobot_python: str, rounds: int = 7, out: Path = Path("docs/results/control/lerobot.json")) -> None:
    """Measures in turns, and writes the medians and their ratios.

    Args:
        lerobot_python: interpreter of LeRobot's environment.
        rounds: turns that count.
        out: file of the result.
    """
    torch.set_num_threads(1)
    models = {preset: planner(preset) for preset in ("pusht", "pusht-fast")}
    other = subprocess.Popen([lerobot_python, "-c", LEROBOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None and other.stdout is not None
    about, found = json.loads(other.stdout.readline()), list[dict[str, float]]()
    for number in range(rounds + 1):
        other.stdin.write("\n")
        other.stdin.flush()
        row = {"LeRobot DiffusionPolicy": json.loads(other.stdout.readline())}
        for preset, (method, history) in models.items():
            row |= {f"{preset}, every {every}": median(amortised(method, history, every) for _ in range(5)) for every in (8, 32)}
        found += [row] if number else []  # the first round warms up
    other.stdin.close()
    times = {name: median(row[name] for row in found) for name in found[0]}
    ratios = {name: median(row["LeRobot DiffusionPolicy"] / row[name] for row in found) for name in times if "every" in name}
    command = "python benchmarks/lerobot_speed.py --lerobot-python lerobot-venv/bin/python"
    result = {"command": command, "hardware": hardware(), "lerobot": about, "ms_per_step": times, "ratio": ratios, "rounds": found}
    write_json(out, result)
    print(json.dumps({**about, "ms_per_step": times, "ratio": ratios}, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
