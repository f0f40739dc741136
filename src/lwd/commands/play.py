"""`lwd play`: a trained run in its simulator, in real time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from lwd.config import EvalSettings, require
from lwd.errors import LWDError


@dataclass
class Play:
    """Run a trained model in its simulator in real time: the policy acts at a fixed rate, the next one is generated in the background.
    Ctrl-C ends the episode."""

    run: Positional[str]
    """Run directory."""
    rate: float = 0.0
    """Steps per second. By default the environment's own."""
    video: str = ""
    """GIF to write, without a window."""
    replan_every: int = 0
    """Steps between queries. By default the horizon of training."""
    delay: int = 0
    """Steps from an observation to the takeover of its policy; 0: as soon as it is there."""
    blend: int = 0
    """Steps after a takeover in which the action passes from the former policy's to the new one's."""
    monitor: float = 0.0
    """Ask early as soon as an observation is farther from the world model's prediction than this (normalised units)."""
    disturb: str = "none"
    """Disturbance, as NAME:MAGNITUDE."""
    task: str = ""
    """Task, of a model that knows several."""
    seed: int = 0
    """Seed of the episode."""
    max_steps: int = 0
    """Steps after which the episode is cut off. By default the environment's own number."""
    json: bool = False
    """Print scores and timing as JSON."""

    def __call__(self) -> None:
        import numpy as np
        import torch

        from lwd.deploy.realtime import AsyncController
        from lwd.envs.base import family
        from lwd.envs.vector import ProcessVectorEnv
        from lwd.methods.wrappers import monitored
        from lwd.policy import Generator
        from lwd.report.video import save_gif

        own = Generator(self.run)
        method, spec = own.method, own.method.spec
        require(spec.env is not None, "the data of this run names no simulator to play in: take a run of PushT, such as runs/demo")
        kind, task = family(str(spec.env)), self.task or (spec.tasks[0] if len(spec.tasks) == 1 else None)
        method.task_index(own._names(task, 1))  # says what is wrong with the task
        settings = EvalSettings(replan_every=self.replan_every or method.horizon, disturb=self.disturb, monitor=self.monitor)
        rate = self.rate or kind.fps
        show = print if self.video else window(self.run)
        infos, frames, stride = defaultdict[str, list[float]](list), list[Any](), max(1, round(rate / 25))

        def generate(obs: Any) -> Any:
            made = own.plan(obs.reshape(1, -1, obs.shape[-1]), task, replan_every=settings.replan_every)
            made.shape = obs.shape[-1:]  # one robot, whose history was no batch
            return made

        how: dict[str, Any] = {"delay": self.delay, "blend": self.blend, "task": task, "history": method.history}
        how["patience"] = self.max_steps + kind.max_steps  # nothing moves while no action is sent: an old observation is still true
        if (surprise := monitored(method, settings)) is not None:
            alarm: Any = surprise
            how["monitor"] = lambda *told: alarm(*map(torch.as_tensor, told[:4]), told[4])
        controller = AsyncController(generate, rate, replan_every=settings.replan_every, **how)

        def send(action: Any) -> None:
            obs, reward, terminated, truncated, told = envs.step(np.clip(action, kind.action_low, kind.action_high)[None])
            controller.observe(obs[0])
            for key, value in {"reward": reward, **told}.items():
                infos[key].append(float(value[0]))
            if len(infos["reward"]) % stride == 0:
                (frames.append if self.video else show)(envs.render([0])[0])
            if terminated[0] or truncated[0]:
                controller.stop()

        tasks = [task or ""] if kind.tasks else ()
        with ProcessVectorEnv(kind.name, spec.obs_kind, 1, 0, self.max_steps, self.disturb, tasks) as envs, suppress(KeyboardInterrupt):
            first = envs.reset([self.seed])[0][0]
            generate(np.stack([first] * method.history).astype(np.float32))  # the first one is slow
            controller.observe(first)
            controller.run(send)
        require(bool(infos), "the episode ended before its first step")
        told = {"scores": kind.summarise(infos), **controller.summary()}
        if frames:
            told["video"] = str(save_gif(frames, Path(self.video), rate / stride, size=384))
        print(json.dumps(told, indent=1) if self.json else in_words(told))


def in_words(told: dict[str, Any]) -> str:
    """What `lwd play` prints at the end: the scores of the episode, and how well it kept its time."""
    what = "{steps} steps at {rate:g} per second, {missed} missed\n{swapped} policies, {late} late, {failed} failed; {alarms} alarms"
    lines = [", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in told["scores"].items()), what.format(**told)]
    lines += [f"{count} times {reason}" for reason, count in told["reasons"].items()]
    for name in ("latency", "jitter", "generation"):
        lines.append(f"{name} (µs): " + ", ".join(f"{key} {value:.0f}" for key, value in told[f"{name}_us"].items() if key != "n"))
    return "\n".join([*lines, told["video"]] if "video" in told else lines)


def window(title: str) -> Callable[[Any], None]:
    """Opens a window, and returns what shows a picture (H, W, 3) in it. Who closes it ends the episode as Ctrl-C does."""
    try:
        import pygame

        pygame.display.init()
        pygame.display.set_caption(title)
    except Exception as error:  # pygame's own kind is known only where it is installed
        raise LWDError(f"no window can be opened here ({error}): write a video instead, with --video play.gif") from None

    def show(frame: Any) -> None:
        screen = pygame.display.get_surface() or pygame.display.set_mode((frame.shape[1], frame.shape[0]))
        screen.blit(pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        if pygame.event.get(pygame.QUIT):
            raise KeyboardInterrupt

    return show
