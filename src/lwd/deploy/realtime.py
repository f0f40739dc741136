"""Real-time control: a policy steps at a fixed rate, and the next one is generated in the background. It needs numpy and nothing else."""

from __future__ import annotations

import gc
import math
import os
import sys
from collections import Counter, deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from time import perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwd.deploy.histogram import Histogram
from lwd.errors import LWDError

Array = NDArray[Any]
SPIN = 1e-4  # seconds before a deadline in which one may wait busily: about what the system's sleep is late
SWITCH = 1e-5  # seconds after which Python's other threads must let the control thread go on; usually 0.005
RETRY = 0.05  # seconds from a failed generation to the next
LAST = 2.0  # seconds that the last generation is waited for: torch does not like to be ended
REASONS = 50  # different reasons that are kept


class AsyncController:
    """Steps a policy at a fixed rate while the next one is generated from the newest observation, which then takes over.

    One generation is under way at a time. The running policy stays in charge until the next one is there, however long that takes, and
    also when it fails. A policy is told its age: the steps since the observation that it was made from. That of the first one counts from
    its takeover, because until then nothing has moved the robot.

    Args:
        generator: raw observation (Do,), or (K, Do) with a `history` of K -> anything with `act(obs, t)`, such as `lwd.deploy.Policy`. It
            is called in a thread of its own.
        rate: steps per second.
        replan_every: steps between the observations that policies are made from; 0: as often as generations allow.
        delay: steps from an observation to the takeover of its policy, as in `lwd eval --delay`; what is ready sooner waits. 0: at once.
        blend: steps after a takeover in which the action passes from the former policy's to the new one's.
        monitor: asks early, as `lwd.control.Monitor`: the same arguments in numpy, with one row. It is told the `task`.
        safe: action (Da,) that is sent as long as there is no policy, after `patience` steps without a new observation, when a policy
            fails or gives a number that is not finite, and at the end. None repeats the last action, and sends nothing before the first.
        spin: wait busily for the last 100 µs before a step: less jitter, more processor time.
        priority: of the control thread among the system's real-time threads (Linux, SCHED_FIFO, 1 to 99); the generator's thread is one
            below. 0: both are ordinary threads, which wait while others have their turn.
        takes: steps that a generation takes where nothing runs in the background, that is, when `step` is called directly.
    """

    def __init__(
        self,
        generator: Callable[[Any], Any],
        rate: float,
        *,
        replan_every: int = 0,
        delay: int = 0,
        blend: int = 0,
        monitor: Callable[..., Any] | None = None,
        task: str | None = None,
        history: int = 1,
        safe: ArrayLike | None = None,
        patience: int = 10,
        spin: bool = False,
        priority: int = 0,
        takes: int = 0,
    ) -> None:
        if not (0 < rate < math.inf and min(replan_every, delay, blend, takes) >= 0 and min(patience, history) >= 1):
            raise LWDError("rate, patience and history must be above 0, and replan_every, delay, blend and takes not below 0")
        self.generator, self.rate, self.replan_every, self.delay, self.blend = generator, rate, replan_every, delay, blend
        self.monitor, self.tasks, self.patience, self.spin, self.priority = monitor, task and [task], patience, spin, priority
        self.safe, self.takes = None if safe is None else np.array(safe, np.float32), takes
        self.counts = Counter(dict.fromkeys(("steps", "asked", "alarms", "swapped", "late", "failed", "safe", "missed"), 0))
        self.reasons: Counter[str] = Counter()  # of failures
        self.latency, self.jitter, self.generation = Histogram(), Histogram(), Histogram()
        self.now = -1  # the number of the present step
        self.policy: Any = None
        self.action: Array | None = None  # the last one that was sent
        self._seen: deque[Array] = deque(maxlen=history)
        self._newest: Array | None = None
        self._taken: Array | None = None
        self._former: tuple[Any, int] | None = None  # policy, and the step of its observation
        self._requests: SimpleQueue[Array | None] | None = None  # to the background
        self._made: tuple[Any, float, int] | None = None  # policy or exception, seconds, step from which it may be taken
        self._generating = self._wanted = self._late = self._stopping = False
        self._silent = self._asked = self._born = self._swapped = self._pause = 0

    def observe(self, obs: ArrayLike) -> None:
        """What the robot sees now, raw (Do,). Any thread may call it, at any rate: a step takes the newest."""
        self._newest = np.array(obs, np.float32)

    def step(self, obs: ArrayLike | None = None) -> Array | None:
        """One step, with a new observation (Do,) or without -> the action (Da,), or None as long as there is none to send. Outside `run`, a
        generation happens inside the step that asks for it, and counts as ready `takes` steps later; the first one at once."""
        self.now, self._silent, alarm = self.now + 1, self._silent + 1, False
        if obs is not None:
            seen = np.array(obs, np.float32)
            alarm, self._silent = self._silent == 1 and self._alarm(seen), 0
            self._seen.extend([seen] * (1 if self._seen else self._seen.maxlen or 1))
        fresh = bool(self._seen) and self._silent < self.patience
        self.counts.update(steps=1, alarms=alarm)
        self._wanted |= alarm
        self._collect()
        due = self.policy is None or self._wanted or self.now - self._asked >= self.replan_every
        if fresh and due and not self._generating and self.now >= self._pause:
            self._ask()
        action = self._act() if fresh and self.policy is not None else None
        if action is None:
            self.counts["safe"] += self.policy is not None
            action = self.action if self.safe is None else self.safe
        self.action = action
        return action

    def run(self, send: Callable[[Array], Any], steps: int = 0) -> None:
        """Steps in the calling thread, and gives each action (Da,) to `send`: for so many steps (0: for ever), until `stop` or Ctrl-C.
        Deadlines lie on a fixed grid. A step that takes until after the next one skips it: `missed`."""
        requests = self._requests = SimpleQueue[Any]()
        thread = Thread(target=self._background, args=(requests,), daemon=True)
        switch = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        gc.freeze()  # else the collector would stop a step for as long as it looks at everything that torch has
        try:
            self._hurry(self.priority - 1)  # which the thread inherits
            thread.start()
            self._hurry(self.priority)
            begin, tick, last = perf_counter(), 0, self.now + steps
            while not self._stopping and (not steps or self.now < last):
                deadline = begin + tick / self.rate
                sleep(max(0.0, deadline - perf_counter() - SPIN * self.spin))
                while perf_counter() < deadline:
                    pass
                self.jitter.add(perf_counter() - deadline)
                newest = self._newest
                action = self.step(None if newest is self._taken else newest)
                self._taken = newest
                self.latency.add(perf_counter() - deadline)
                if action is not None:
                    send(action)
                following = max(tick, int((perf_counter() - begin) * self.rate)) + 1
                self.counts["missed"] += following - tick - 1
                tick = following
        finally:
            requests.put(None)
            self._requests = None
            gc.unfreeze()
            sys.setswitchinterval(switch)
            if self.safe is not None:
                send(self.safe)
            self._hurry(0)
            if thread.ident:
                thread.join(LAST)

    def _hurry(self, priority: int) -> None:
        """Makes the calling thread a real-time thread of the system, or with priority 0 an ordinary one again."""
        if self.priority:
            os.sched_setscheduler(0, os.SCHED_FIFO if priority else os.SCHED_OTHER, os.sched_param(priority))

    def stop(self) -> None:
        """Ends `run` after the present step. Any thread may call it."""
        self._stopping = True

    def summary(self) -> dict[str, Any]:
        """Counts, the reasons of failures, and in microseconds: `latency` from the deadline of a step to its action, `jitter` from the
        deadline to the beginning of the step, `generation`."""
        times = {"latency_us": self.latency, "jitter_us": self.jitter, "generation_us": self.generation}
        return {"rate": self.rate, **self.counts, "reasons": dict(self.reasons), **{key: own.summary() for key, own in times.items()}}

    def _alarm(self, following: Array) -> bool:
        """Does the monitor say that the last step was not what it expected?"""
        if self.monitor is None or self.action is None or self.policy is None:
            return False
        row, age = (self._seen[-1][None], self.action[None], following[None]), np.array([self.now - 1 - self._born])
        try:
            return bool(self.monitor(*row, age, self.tasks)[0])
        except Exception as error:
            self._note("monitor", error)
            return False

    def _ask(self) -> None:
        """Asks for a policy for the newest observation."""
        self._generating, self._wanted, self._late, self._asked = True, False, False, self.now
        self.counts["asked"] += 1
        asked = np.stack(self._seen) if len(self._seen) > 1 else self._seen[0]
        if self._requests is not None:
            self._requests.put(asked)
        else:
            self._generate(asked, self.now + self.takes * (self.policy is not None))
            self._collect()

    def _background(self, requests: SimpleQueue[Array | None]) -> None:
        while (obs := requests.get()) is not None:
            self._generate(obs)

    def _generate(self, obs: Array, step: int = 0) -> None:
        begin = perf_counter()
        try:
            made = self.generator(obs)
        except Exception as error:
            made = error
        self._made = made, perf_counter() - begin, step

    def _collect(self) -> None:
        """Puts the policy of a finished generation in charge when its time has come."""
        first, age, allowed = self.policy is None, self.now - self._asked, self.delay or self.replan_every
        if self._made is None or self.now < self._made[2]:
            if self._generating and not self._late and not first and 0 < allowed < age:
                self._late = True
                self.counts["late"] += 1
            return
        made, seconds, _ = self._made
        if isinstance(made, Exception):
            self.counts["failed"] += 1
            self._note("generation", made)
            self._wanted, self._pause = True, self.now + max(1, round(RETRY * self.rate))
        elif not first and age < self.delay:
            return
        else:
            self._former = None if first else (self.policy, self._born)
            self.policy, self._born, self._swapped = made, self.now if first else self._asked, self.now
            self.counts["swapped"] += 1
        self.generation.add(seconds)
        self._made, self._generating = None, False

    def _act(self) -> Array | None:
        """The action of the policy in charge, after a takeover mixed with that of the former one; None where it is no finite number."""
        obs, share = self._seen[-1], (self.now - self._swapped + 1) / (self.blend + 1)
        try:
            action = np.array(self.policy.act(obs, self.now - self._born), np.float32)
            if not np.isfinite(action).all():
                raise LWDError("the action is not finite")
        except Exception as error:
            self._note("action", error)
            self._wanted = True
            return None
        if self._former is not None and share < 1:
            try:
                former = np.asarray(self._former[0].act(obs, self.now - self._former[1]), np.float32)
                return share * action + (1 - share) * former if np.isfinite(former).all() else action
            except Exception:  # it has come to its end, perhaps: the new one acts alone
                self._former = None
        return action

    def _note(self, where: str, error: Exception) -> None:
        reason = f"{where}: {str(error) or type(error).__name__}"
        self.reasons[reason if reason in self.reasons or len(self.reasons) < REASONS else "others"] += 1
