"""What `lwd eval` and `lwd info` do: load a run, measure or read, print and write."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from rich.console import Console

from lwd.config import require
from lwd.errors import LWDError
from lwd.run import Run
from lwd.statistics import Interval

if TYPE_CHECKING:
    from lwd.cli import Eval
    from lwd.methods.base import Method
    from lwd.rollout import Records


def info(path: str) -> dict[str, Any]:
    """Settings, data, tasks, parameter counts per module, progress and best results of a run, JSON-ready.

    Raises:
        LWDError: no run there.
    """
    from lwd.methods.base import make_method

    run = Run(path)
    record = run.record()
    settings = run.config().method
    method = make_method(settings, run.spec())
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in method.named_children()}
    parts = {name: count for name, count in parts.items() if count}
    if method.policy_parameters and "policy" not in parts:
        parts["generated policy"] = method.policy_parameters
    state = run.load("model")[1] if run.latest() else {"stage": None, "step": 0, "done": [], "seconds": {}}
    results = [json.loads(p.read_text()) for p in sorted((run.path / "eval").glob("*.json"))] if (run.path / "eval").exists() else []
    return {
        "run": path,
        "config": record["config"],
        "data": record["data"],
        "tasks": list(method.spec.tasks),
        "task_embedding": None if method.task_code is None else settings.task_embedding,
        "versions": record["versions"],
        "parameters": parts,
        "trained": {"done": state["done"], "stage": state["stage"], "step": state["step"], "seconds": state["seconds"]},
        "results": [
            {
                "name": r["name"],
                "horizon": r["horizon"],
                "perturbation": r["perturbation"],
                "episodes": r["episodes"],
                "scores": r["scores"],
            }
            for r in results
        ],
    }


def render_info(result: dict[str, Any]) -> str:
    """`info` for people."""
    trained, data, config = result["trained"], result["data"], result["config"]
    lines = [
        f"run         {result['run']}  (preset {config['preset']}, horizon {config['horizon']}, seed {config['seed']})",
        f"data        {data['path']}: {data['episodes']} episodes, {data['steps']} steps, fingerprint {data['fingerprint']}",
        f"            {data['description']}",
        *_task_lines(result),
        f"trained     {', '.join(trained['done']) or 'nothing yet'}"
        + ("" if trained["stage"] in (None, *trained["done"]) else f"; {trained['stage']} at step {trained['step']}"),
    ]
    lines += [f"            {stage}: {seconds / 60:.1f} min" for stage, seconds in trained["seconds"].items()]
    lines.append("parameters  " + ", ".join(f"{name} {count:,}" for name, count in result["parameters"].items()))
    lines.append("versions    " + ", ".join(f"{k} {v}" for k, v in result["versions"].items()))
    for r in result["results"]:
        scores = ", ".join(f"{k} {Interval.from_dict(s).format(3)}" for k, s in r["scores"].items())
        lines.append(f"result      {r['name']}: {scores}")
    if not result["results"]:
        lines.append(f"result      none yet: lwd eval {result['run']}")
    return "\n".join(lines)


def _task_lines(result: dict[str, Any]) -> list[str]:
    """How plans are told their task, and the tasks' names; nothing where the data names none."""
    names, embedding = result["tasks"], result["task_embedding"]
    if not names:
        return []
    how = "one-hot" if embedding == "one_hot" else embedding or "nothing is conditioned on it"
    text = f"tasks       {len(names)} ({how}): {', '.join(names)}"
    return textwrap.wrap(text, 120, subsequent_indent=" " * 12, break_on_hyphens=False)


def evaluate_run(verb: Eval) -> None:
    """`lwd eval`: rollouts, table, eval/<name>.json, videos."""
    from lwd.evaluate import result_name
    from lwd.tables import render, render_tasks
    from lwd.train import load_method

    for name, value in (("--episodes", verb.episodes), ("--horizon", verb.horizon), ("--steps", verb.steps)):
        if value is not None and value < 1:
            raise LWDError(f"{name} must be at least 1, not {value}")
    require(verb.perturbation >= 0, f"--perturbation is a magnitude: it must not be negative, but is {verb.perturbation:g}")
    require(not set(verb.name) & set("/\\"), f"--name becomes a file name: it must not hold a slash, but is {verb.name!r}")
    run = Run(verb.run)
    spec = run.spec()
    if spec.env is None:
        raise LWDError(f"{verb.run} was trained on data that names no environment: there is nothing to run it in")
    method = load_method(run, verb.device)
    if not set(method.stages) <= set(run.load("model")[1]["done"]):
        raise LWDError(f"{verb.run} is not trained to its end yet: the same `lwd train` command continues it")
    own = method.sampling
    method.sample_with(verb.sampler, verb.steps, verb.warm_start, verb.latent)
    horizon = verb.horizon or method.horizon
    tasks = choose_tasks(method, verb.tasks)
    labels = [] if method.sampling is None or method.sampling == own else [method.sampling.label]
    if verb.tasks:
        labels.append("+".join(tasks) if len(tasks) < 4 else f"{len(tasks)}tasks-{crc32(' '.join(tasks).encode()):08x}")
    count = verb.episodes or (16 if len(tasks) > 1 else 50)
    name = verb.name or result_name(
        horizon=horizon, perturbation=verb.perturbation, episodes=count, seed_start=verb.seed_start, label="-".join(labels)
    )
    seeds = range(verb.seed_start, verb.seed_start + count)
    result, path, written = measure(
        run, method, name, seeds, horizon, verb.perturbation, tasks=tasks, videos=verb.video, workers=verb.workers, quiet=verb.json
    )
    if verb.json:
        print(json.dumps({**{k: v for k, v in result.items() if k != "records"}, "path": str(path)}, indent=1))
        return
    if len(tasks) > 1:
        Console().print(render_tasks(result))
    Console().print(render([result], title=str(run.path)))
    for file in (path, *written):
        print(file)


def choose_tasks(method: Method, wanted: Sequence[str]) -> tuple[str, ...]:
    """The tasks to run: those wanted (names or sets of the family), or all that the model knows; empty for a family of one task.

    Raises:
        LWDError: a task that the model does not know.
    """
    from lwd.envs.base import family

    assert method.spec.env is not None
    kind, known = family(method.spec.env), method.spec.tasks
    if not wanted:
        return known if kind.tasks else ()
    names = kind.task_names(wanted)
    method.task_index(names)
    return tuple(names)


def measure(
    run: Run,
    method: Method,
    name: str,
    seeds: Sequence[int],
    horizon: int,
    perturbation: float,
    *,
    tasks: Sequence[str] = (),
    videos: int = 0,
    workers: int | None = None,
    quiet: bool = False,
) -> tuple[dict[str, Any], Path, list[Path]]:
    """One evaluation of a run: the result, the file it was written to, and the videos of the first episodes.

    Args:
        run: trained.
        method: of the run.
        name: of the result.
        seeds: of the episodes; with tasks, every task runs all of them.
        horizon: steps between queries.
        perturbation: magnitude.
        tasks: of a family of several.
        videos: of so many episodes; with tasks, of the first episodes of the first of them.
        workers: simulator processes.
        quiet: no progress bar.
    """
    from lwd.evaluate import evaluate, write_result

    env = method.spec.env
    assert env is not None
    written: list[Path] = []

    def inspect(records: Records) -> None:
        written.extend(save_videos(records, run.path / "videos", name, horizon, env))

    with progress_bar(name) as progress:
        result = evaluate(
            method,
            env=env,
            obs=method.spec.obs,
            seeds=list(seeds) * max(len(tasks), 1),
            task=[task for task in tasks for _ in seeds] or None,
            horizon=horizon,
            perturbation=perturbation,
            sampler=None if method.sampling is None else asdict(method.sampling),
            name=name,
            workers=workers,
            record_frames=videos,
            inspect=inspect if videos else None,
            progress=None if quiet else progress,
        )
    return result, write_result(result, run.path / "eval"), written


def save_videos(records: Records, folder: Path, name: str, horizon: int, env: str) -> list[Path]:
    """One GIF for each recorded episode, with marks where a new policy was generated and where the block was displaced."""
    from lwd.envs.base import family
    from lwd.video import annotate, save_gif

    paths, kind = [], family(env)
    folder.mkdir(parents=True, exist_ok=True)
    for index, frames in records.frames.items():
        episode = records.episodes[index]
        marked = annotate(
            frames,
            scores=kind.curve(episode),
            queries=range(0, episode["steps"], horizon),
            displaced=episode.get("displaced_at", ()),
        )
        paths.append(save_gif(marked, folder / f"{name}_{episode['seed']}.gif", kind.fps))
    return paths


@contextmanager
def progress_bar(title: str) -> Iterator[Any]:
    """A bar for `progress(done, total)` callbacks."""
    from rich.progress import Progress

    with Progress(transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
