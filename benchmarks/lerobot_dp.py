"""PushT: is the Diffusion Policy of lwd a straw man? LeRobot's own, on the same demonstrations, in the same episodes.

    python -m venv lerobot-venv && lerobot-venv/bin/pip install lerobot==0.4.4      # Python 3.11, 8 GB: PyTorch 2.10 with CUDA

    python benchmarks/lerobot_dp.py export --data pusht_cchi_v7_replay.zarr --out demos.npz
    lerobot-venv/bin/python benchmarks/lerobot_dp.py train --demos demos.npz --out runs/lerobot --steps 20000
    python benchmarks/lerobot_dp.py evaluate --model runs/lerobot --lerobot-python lerobot-venv/bin/python
    python benchmarks/lerobot_dp.py compare runs/dp/eval/h8_p0_n50_s100000.json benchmarks/results/lerobot_dp.json::NAME

The two libraries ask for different releases of PyTorch and live in two environments. `train` runs in LeRobot's; `evaluate` and `compare`
run in lwd's, where `evaluate` asks LeRobot's for actions through a pipe (`serve`): simulator, seeds, disturbances, scores and intervals
are lwd's.

LeRobot's are: the network, its loss, the sampler, the pre- and postprocessor, the optimiser (Adam, 1e-4, betas 0.95 and 0.999, weight
decay 1e-6, gradients clipped at 10) and the schedule (500 steps of warm-up, cosine to zero). Training follows `lerobot_train.py`: every
frame but the last `horizon - n_action_steps - n_obs_steps + 1` of an episode is a start, drawn without replacement per epoch, and what a
window lacks at the ends of an episode is a copy of its first or last frame, which the loss does not mask. Ours are the batches (cut from
tensors in memory) and two choices:

* Key points are scaled to [-1, 1] like everything else. `DiffusionConfig` of 0.4.4 names no mode for `observation.environment_state`, so
  that by default they enter the network in pixels; `--env-state identity` does that.
* Every episode has noise of its own (LeRobot draws from torch's global generator), so that its result does not hang on the other ones.

LeRobot 0.4.4 averages no weights (no EMA), and neither is it done here. Its default network (`--down-dims 512,1024,2048`) is made for
images and a GPU.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:  # each environment has only one of the two libraries
    from lwd.methods.base import Controller, Generators

RESULTS = Path(__file__).parent / "results" / "lerobot_dp.json"
AGENT = {"keypoints": [16, 17], "state": [0, 1]}  # dimensions of an observation that are LeRobot's `observation.state`
STATE, ENV_STATE, ACTION = "observation.state", "observation.environment_state", "action"  # LeRobot's names
LOG_EVERY = 100  # steps
ABOUT = "benchmark.json"


# export, in lwd's environment


def export(options: argparse.Namespace) -> None:
    """Writes the training episodes of `lwd train` as flat arrays."""
    from lwd.config import Config
    from lwd.data.prepare import load_data
    from lwd.files import write_json

    config = Config(data=options.data, obs_kind=options.obs_kind, mirror=options.mirror, holdout=options.holdout)
    episodes, _ = load_data(config)
    about = {
        "env": episodes.meta.env,
        "obs_kind": options.obs_kind,
        "episodes": len(episodes),
        "steps": episodes.steps,
        "mirror": options.mirror,
        "holdout": options.holdout,
        "fingerprint": episodes.fingerprint(),
        "description": episodes.meta.description,
    }
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        np.savez(file, obs=episodes.obs, action=episodes.action, ends=episodes.ends, about=np.array(json.dumps(about)))
    write_json(out.with_suffix(".json"), about)
    print(json.dumps(about))


# train, in LeRobot's environment


def windows(ends: NDArray[np.int64], deltas: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows of the window around each row, as `LeRobotDataset` takes them.

    Args:
        ends: (E,) exclusive end row of each episode.
        deltas: (W,) steps before (negative) or after a row.

    Returns:
        (N, W) int64 rows, those beyond an episode's ends replaced by its first or last one, and (N, W) bool, which these are.
    """
    starts = np.concatenate([[0], ends[:-1]])
    first, last = (np.repeat(rows, ends - starts)[:, None] for rows in (starts, ends - 1))
    rows = np.arange(ends[-1])[:, None] + np.asarray(deltas)
    return torch.from_numpy(rows.clip(first, last)), torch.from_numpy((rows < first) | (rows > last))


def batches(frames: int, batch: int, seed: int, start: int) -> Iterator[Tensor]:
    """Frames of every gradient step from number `start` on; each epoch has an order of its own, and a last batch that may be smaller."""
    epoch, skip = divmod(start, math.ceil(frames / batch))
    while True:
        order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(frames))
        yield from order.split(batch)[skip:]
        epoch, skip = epoch + 1, 0


def make_config(options: argparse.Namespace, obs_dim: int, action_dim: int, agent_dim: int) -> Any:
    """LeRobot's config: its defaults, but for what the options say."""
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

    config = DiffusionConfig(
        n_obs_steps=options.n_obs_steps,
        horizon=options.horizon,
        n_action_steps=options.n_action_steps,
        drop_n_last_frames=options.horizon - options.n_action_steps - options.n_obs_steps + 1,
        down_dims=options.down_dims,
        input_features={
            STATE: PolicyFeature(FeatureType.STATE, (agent_dim,)),
            ENV_STATE: PolicyFeature(FeatureType.ENV, (obs_dim - agent_dim,)),
        },
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (action_dim,))},
        device=options.device,
        push_to_hub=False,
    )
    config.normalization_mapping["ENV"] = NormalizationMode[options.env_state.upper()]
    return config


def split(obs: Tensor, agent: Sequence[int]) -> dict[str, Tensor]:
    """(..., Do) observations as LeRobot names them: the agent's position, and the rest."""
    rest = [d for d in range(obs.shape[-1]) if d not in agent]
    return {STATE: obs[..., list(agent)], ENV_STATE: obs[..., rest]}


def train(options: argparse.Namespace) -> None:
    """Trains, or continues: the same command again resumes."""
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # for speed alone
    torch.manual_seed(options.seed)
    with np.load(options.demos) as file:
        obs, action, ends = (torch.from_numpy(file["obs"]), torch.from_numpy(file["action"]), file["ends"])
        data = json.loads(str(file["about"]))
    agent = AGENT[data["obs_kind"]]
    config = make_config(options, obs.shape[1], action.shape[1], len(agent))
    policy = DiffusionPolicy(config).to(config.device).train()
    frames = {**split(obs, agent), ACTION: action}
    stats = {key: {"min": x.amin(0), "max": x.amax(0)} for key, x in frames.items()}
    preprocessor, postprocessor = make_diffusion_pre_post_processors(config, stats)
    frames = {key: value for key, value in preprocessor(frames).items() if key in frames}  # works on each frame alone: once is enough

    before, _ = windows(ends, config.observation_delta_indices)
    ahead, is_pad = windows(ends, config.action_delta_indices)
    lengths = np.diff(ends, prepend=0)
    start = np.concatenate([np.arange(end - n, end - config.drop_n_last_frames) for end, n in zip(ends, lengths, strict=True)])
    starts = torch.from_numpy(start)

    preset = config.get_optimizer_preset()
    optimizer = preset.build(policy.get_optim_params())
    scheduler = config.get_scheduler_preset().build(optimizer, options.steps)
    settings = {k: v for k, v in vars(options).items() if k not in ("verb", "run", "demos", "out", "threads", "device", "save_every")}
    settings |= {"fingerprint": data["fingerprint"]}
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    step, seconds = resume(out, settings, policy, optimizer, scheduler)
    parameters = sum(p.numel() for p in policy.parameters())
    print(f"{parameters} parameters, {len(starts)} windows of {len(ends)} episodes, from step {step}", flush=True)

    losses: list[float] = []
    began = mark = time.perf_counter()
    source = batches(len(starts), options.batch, options.seed, step)
    while step < options.steps:
        rows = starts[next(source)]
        batch = {key: frames[key][before[rows]] for key in (STATE, ENV_STATE)}
        batch |= {ACTION: frames[ACTION][ahead[rows]], "action_is_pad": is_pad[rows].to(config.device)}
        loss, _ = policy.forward(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), preset.grad_clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.item())
        step += 1
        now = time.perf_counter()
        if step % LOG_EVERY == 0 or step == options.steps:
            speed = f"lr {scheduler.get_last_lr()[0]:.2e}  {len(losses) / (now - mark):.2f} steps/s"
            print(f"step {step}/{options.steps}  loss {np.mean(losses):.4f}  {speed}", flush=True)
            losses, mark = [], now
        if step % options.save_every == 0 or step == options.steps:
            save(out, settings, policy, optimizer, scheduler, step, seconds + now - began)
    seconds += time.perf_counter() - began

    for part in (policy, preprocessor, postprocessor):
        part.save_pretrained(out)
    about = {
        "data": data,
        "settings": settings,
        "parameters": parameters,
        "seconds": round(seconds, 1),
        "threads": options.threads,
        "device": config.device,
        "versions": {name: version(name) for name in ("lerobot", "torch", "diffusers")},
    }
    (out / ABOUT).write_text(json.dumps(about, indent=1) + "\n")


def save(out: Path, settings: dict[str, Any], policy: Any, optimizer: Any, scheduler: Any, step: int, seconds: float) -> None:
    """Everything that the next step depends on, whole or not at all."""
    state = {"settings": settings, "step": step, "seconds": seconds, "rng": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}
    state |= {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save(state, out / "training.tmp")
    os.replace(out / "training.tmp", out / "training.pt")


def resume(out: Path, settings: dict[str, Any], policy: Any, optimizer: Any, scheduler: Any) -> tuple[int, float]:
    """(steps done, seconds spent), 0 where there is nothing to resume."""
    path = out / "training.pt"
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["settings"] != settings:
        raise SystemExit(f"{out} was started with other settings ({state['settings']}, now {settings}): choose another --out")
    policy.load_state_dict(state["policy"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["rng"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    return state["step"], state["seconds"]


# serve, in LeRobot's environment: a message is its length (8 bytes, little-endian) and an .npz of that length


def send(stream: IO[bytes], **arrays: Any) -> None:
    """Writes one message."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    stream.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, NDArray] | None:
    """Reads one message; None where the other side has closed the pipe."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    (size,) = struct.unpack("<Q", head)
    with np.load(io.BytesIO(stream.read(size))) as file:
        return dict(file)


@dataclass
class Sampler:
    """A trained policy of LeRobot with its processors."""

    policy: Any
    preprocessor: Any
    postprocessor: Any
    agent: Sequence[int]

    def __call__(self, histories: Tensor, seeds: Sequence[int]) -> Tensor:
        """What `generate_actions` gives, but to the end of the trajectory, and with one generator per row.

        Args:
            histories: (B, K, Do) raw observations, oldest first.
            seeds: (B,) of the noise.

        Returns:
            (B, horizon - K + 1, Da) raw actions; the first one is for the last observation.
        """
        config, model = self.policy.config, self.policy.diffusion
        batch = self.preprocessor(split(histories, self.agent))
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        shape = (1, config.horizon, config.action_feature.shape[0])
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in generators]).to(config.device)
        condition = model._prepare_global_conditioning(batch)
        trajectory = model.conditional_sample(len(noise), global_cond=condition, generator=generators, noise=noise)
        return self.postprocessor(trajectory[:, config.n_obs_steps - 1 :])


def load_sampler(options: argparse.Namespace) -> Sampler:
    """The policy in `options.model`, with the sampler that the options ask for."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    config: Any = PreTrainedConfig.from_pretrained(options.model)
    config.device = options.device
    config.noise_scheduler_type = options.sampler.upper()
    config.num_inference_steps = options.inference_steps
    policy = DiffusionPolicy.from_pretrained(options.model, config=config, strict=True)
    device: Any = {"device_processor": {"device": options.device}}
    preprocessor, postprocessor = make_pre_post_processors(config, options.model, preprocessor_overrides=device)
    about = json.loads((Path(options.model) / ABOUT).read_text())
    return Sampler(policy, preprocessor, postprocessor, AGENT[about["data"]["obs_kind"]])


def serve(options: argparse.Namespace) -> None:
    """Answers `histories`, `seeds` with `chunk` until its input ends; the first message says what is served."""
    from torch.utils.flop_counter import FlopCounterMode

    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # LeRobot prints
    torch.set_num_threads(options.threads)
    sampler = load_sampler(options)
    config = sampler.policy.config
    with torch.inference_mode():
        first = torch.zeros(1, config.n_obs_steps, sum(feature.shape[0] for feature in config.input_features.values()))
        with FlopCounterMode(display=False) as counter:
            sampler(first, [0])
        hello = {
            "history": config.n_obs_steps,
            "horizon": config.n_action_steps,
            "flops": int(counter.get_total_flops()),
            "inference_steps": sampler.policy.diffusion.num_inference_steps,
        }
        send(replies, hello=np.array(json.dumps(hello)))
        while (message := receive(sys.stdin.buffer)) is not None:
            chunk = sampler(torch.from_numpy(message["histories"]), message["seeds"].tolist())
            send(replies, chunk=chunk.numpy())


# evaluate and compare, in lwd's environment


class LeRobotPlanner:
    """A policy of LeRobot in a process of its own (a `Planner`), which ends with the `with` block.

    Args:
        python: interpreter of LeRobot's environment.
        words: options of `serve`.
    """

    def __init__(self, python: str, words: Sequence[str]) -> None:
        command = [python, str(Path(__file__).resolve()), "serve", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.about: dict[str, Any] = json.loads(str(self._receive()["hello"]))
        self.history: int = self.about["history"]
        self.horizon: int = self.about["horizon"]

    def plan(self, history: Tensor, task: Sequence[str] | None = None, generator: Generators = None) -> Controller:
        """One chunk per row, executed blindly; a row's noise comes from its own generator."""
        from lwd.methods.base import ChunkController

        generators = [generator] * len(history) if generator is None or isinstance(generator, torch.Generator) else generator
        seeds = [int(torch.randint(1 << 62, (), generator=g)) for g in generators]
        assert self.process.stdin is not None
        send(self.process.stdin, histories=history.numpy(), seeds=np.array(seeds))
        return ChunkController(torch.from_numpy(self._receive()["chunk"]))

    def __enter__(self) -> LeRobotPlanner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.communicate()  # closes its input, which ends it

    def _receive(self) -> dict[str, NDArray]:
        assert self.process.stdout is not None
        message = receive(self.process.stdout)
        if message is None:
            raise SystemExit("LeRobot's process ended (its reason stands above)")
        return message


def evaluate(options: argparse.Namespace) -> None:
    """Evaluates with lwd and adds the result to the file of results."""
    from lwd.config import EvalSettings
    from lwd.evaluate import evaluate, result_name
    from lwd.report.tables import tabulate, terminal
    from lwd.rollout import Scenario

    about = json.loads((Path(options.model) / ABOUT).read_text())
    words = ["--model", options.model, "--sampler", options.sampler, "--threads", str(options.threads), "--device", options.device]
    words += [] if options.inference_steps is None else ["--inference-steps", str(options.inference_steps)]
    with LeRobotPlanner(options.lerobot_python, words) as planner:
        data, steps = about["data"], planner.about["inference_steps"]
        seeds = range(options.seed_start, options.seed_start + options.episodes)
        scenario = Scenario(data["env"], data["obs_kind"], tuple(seeds))
        every = options.replan_every or planner.horizon
        settings = EvalSettings(replan_every=every, disturb=options.disturb, sampler_seed=options.sampler_seed)
        setting = result_name(scenario.resolve(settings, planner), f"{options.sampler}{steps}")
        result = evaluate(
            planner,
            scenario,
            settings,
            sampling={"sampler": options.sampler, "steps": steps},
            name=options.name or f"{Path(options.model).resolve().name}_{setting}",
        )
    amortised = planner.about["flops"] / every  # counted in LeRobot's process, which lwd's counter does not see
    result["flops_per_step"] = {"query": amortised, "policy": 0, "amortised_total": amortised}
    result["records"] = [{k: v for k, v in record.items() if k != "coverage"} for record in result["records"]]  # the curves are large
    result["model"] = about
    result["command"] = command()
    add(options.out, "results", result["name"], result)
    show(terminal(tabulate([result])))


def paired(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Differences first − second of every shared score with their intervals, over the same seeds of the same environment."""
    from lwd.statistics import bootstrap_mean

    a, b = ({record["seed"]: record for record in result["records"]} for result in (first, second))
    if first["env"] != second["env"] or a.keys() != b.keys():
        raise SystemExit(f"{first['name']} and {second['name']} cannot be paired: evaluate both on the same seeds")
    return {s: bootstrap_mean([a[k][s] - b[k][s] for k in a]) for s in first["scores"] if s in second["scores"]}


def compare(options: argparse.Namespace) -> None:
    """Paired differences first − second; adds them to the file of results."""
    from lwd.report.tables import tabulate, terminal

    first, second = (read_result(where) for where in (options.first, options.second))
    for key in ("disturb", "delay", "max_steps"):
        if first[key] != second[key]:
            raise SystemExit(f"{key} is {first[key]} in {first['name']} but {second[key]} in {second['name']}: nothing to pair")
    differences = paired(first, second)
    show(terminal(tabulate([first])), terminal(tabulate([second])))
    keys = ("name", "replan_every", "disturb", "delay", "episodes", "seed_start", "sampling", "scores", "flops_per_step", "ms_per_query")
    names = [options.first_name or first["name"], options.second_name or second["name"]]
    for score, interval in differences.items():
        print(f"{score}, {names[0]} minus {names[1]}: {interval.format(3)}")
    summary = {
        "first": {k: first[k] for k in keys} | {"name": names[0]},
        "second": {k: second[k] for k in keys} | {"name": names[1]},
        "difference": {score: interval.to_dict() for score, interval in differences.items()},
        "command": command(),
    }
    add(options.out, "comparisons", f"{names[0]} - {names[1]}", summary)


def read_result(where: str) -> dict[str, Any]:
    """A result: the path of an `lwd eval` JSON, or `PATH::NAME` in a file of results (`PATH` where it holds one only)."""
    path, _, name = where.partition("::")
    content = json.loads(Path(path).read_text())
    if "records" in content:
        return content
    results = content["results"]
    if not name and len(results) == 1:
        (name,) = results
    if name not in results:
        raise SystemExit(f"{path} holds {', '.join(results)}: say which, as {path}::NAME")
    return results[name]


def add(path: str, part: str, name: str, value: dict[str, Any]) -> None:
    """Adds `value` to a part of the file of results, in place of what had the same name."""
    from lwd.files import write_json

    content = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    content.setdefault(part, {})[name] = value
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(path), content)


def command() -> str:
    """What was typed, absolute paths cut to their names: where things lie on this machine is no part of a result."""
    return "python benchmarks/lerobot_dp.py " + " ".join(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])


def show(*tables: Any) -> None:
    """Prints tables of lwd."""
    from rich.console import Console

    Console().print(*tables)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(run: Any) -> argparse.ArgumentParser:
        one = verbs.add_parser(run.__name__, help=run.__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        one.set_defaults(run=run)
        return one

    def dims(text: str) -> tuple[int, ...]:
        return tuple(int(word) for word in text.split(","))

    one = verb(export)
    one.add_argument("--data", required=True, help="demonstrations, anything that `lwd train --data` takes")
    one.add_argument("--out", required=True, help=".npz file to write")
    one.add_argument("--obs-kind", choices=list(AGENT), default="keypoints", help="observation; the state's angle stays in radians")
    one.add_argument("--mirror", action="store_true", help="add the mirror images")
    one.add_argument("--holdout", type=float, default=0.05, help="fraction of the episodes to leave out, the same ones as `lwd train` does")

    one = verb(train)
    one.add_argument("--demos", required=True, help="written by `export`")
    one.add_argument("--out", required=True, help="directory of the model")
    one.add_argument("--steps", type=int, required=True, help="gradient steps")
    one.add_argument("--batch", type=int, default=64, help="windows per step")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--horizon", type=int, default=16, help="actions of a trajectory, the first one at the oldest observation")
    one.add_argument("--n-obs-steps", type=int, default=2)
    one.add_argument("--n-action-steps", type=int, default=8, help="actions that are executed")
    one.add_argument("--down-dims", type=dims, default=(64, 128, 256), help="channels of the U-Net (LeRobot's default: 512,1024,2048)")
    one.add_argument("--env-state", choices=("min_max", "identity"), default="min_max", help="scaling of observation.environment_state")
    one.add_argument("--save-every", type=int, default=1000, help="steps between checkpoints")
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--device", default="cpu")

    for run in (serve, evaluate):
        one = verb(run)
        one.add_argument("--model", required=True, help="directory that `train` wrote")
        one.add_argument("--sampler", choices=("ddpm", "ddim"), default="ddpm")
        one.add_argument("--inference-steps", type=int, help="steps of the sampler; as many as in training (100) when left out")
        one.add_argument("--threads", type=int, default=1, help="of LeRobot's process")
        one.add_argument("--device", default="cpu", help="of LeRobot's process")
    one.add_argument("--lerobot-python", required=True, help="interpreter of LeRobot's environment")
    one.add_argument("--episodes", type=int, default=50)
    one.add_argument("--seed-start", type=int, default=100_000, help="environment seed of the first episode")
    one.add_argument("--replan-every", type=int, help="steps between queries; n_action_steps when left out")
    one.add_argument("--disturb", default="none", help="disturbance, as `lwd eval` takes it")
    one.add_argument("--sampler-seed", type=int, default=0)
    one.add_argument("--name", help="of the result; made of model and settings when left out")
    one.add_argument("--out", default=str(RESULTS), help="file that the result is added to")

    one = verb(compare)
    one.add_argument("first", help="JSON of `lwd eval`, or PATH::NAME in a file of results")
    one.add_argument("second", help="likewise")
    one.add_argument("--first-name", help="in the summary, when the result's own name says too little")
    one.add_argument("--second-name", help="likewise")
    one.add_argument("--out", default=str(RESULTS), help="file that the summary is added to")

    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
