"""The tasks of a study are command lines of lwd with a partial order; `execute` runs them, here or on a Ray cluster.

A task that ended well leaves a stamp beside its log: its command and how long it took. It is not run again as long as its command and its
preset are the same and its output is there. Everything else is left to the verbs: `lwd train` continues what was stopped and refuses other
settings.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal, Protocol

from lwd.studies.files import read_object, tail, training_is_finished

LWD = ("-m", "lwd.cli")  # what `python` is given before a task's own words
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}  # one thread per task: the parallelism is between tasks
ANYWHERE = ("--device", "--devices", "--threads")  # options of a training that do not change what is trained
# Linux ends a child when its parent dies, however that happens (PR_SET_PDEATHSIG = 1): nothing is left to write into a run behind the back
# of the next study. Set by a step of its own, since code between fork and exec is unsafe in a process with threads.
LAUNCHER = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(143); os.execv(sys.argv[2], sys.argv[2:])"
)


@dataclass(frozen=True)
class Task:
    """One command.

    Args:
        name: unique in the study; also the stem of its log.
        argv: words after `lwd`.
        needs: names of the tasks whose outputs it reads.
        output: file that exists when it is finished.
        log: where its output is kept.
        kind: a training is finished when all its stages are, an evaluation when its output exists.
        run: run directory that it works in.
        arm: what is compared in the study, such as the method; its cost is measured once.
        group: tasks of one group take about the same time.
        recipe: what the command means beyond its words, such as the content of its preset.
    """

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...]
    output: Path
    log: Path
    kind: Literal["train", "eval"]
    run: Path
    arm: str = ""
    group: str = ""
    recipe: str = ""

    @property
    def stamp(self) -> Path:
        """What a finished task leaves behind."""
        return self.log.with_suffix(".json")

    @property
    def command(self) -> str:
        """The command as a user would type it."""
        return shlex.join(("lwd", *self.argv))

    def finished(self) -> float | None:
        """Seconds that it took, or None where it has to be run."""
        stamp = read_object(self.stamp)
        same = (
            stamp is not None and self._identity(stamp.get("argv", ())) == self._identity(self.argv) and stamp.get("recipe") == self.recipe
        )
        if stamp is None or not same or not self.output.exists():
            return None
        return float(stamp["seconds"]) if self.kind == "eval" or training_is_finished(self.run) else None

    def _identity(self, argv: Sequence[str]) -> list[str]:
        """The words that decide about the output."""
        words = list(argv)
        for option in ANYWHERE if self.kind == "train" else ("--workers",):
            while option in words:
                at = words.index(option)
                del words[at : at + 2]
        return words


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Args:
        state: done, failed (it ended with an error), skipped (something that it needs failed), or stopped (by the user).
        seconds: it took; of an earlier run for a task that was finished already.
        note: why it failed or was skipped: last lines of its log.
        fresh: it was run now, not found finished.
    """

    state: Literal["done", "failed", "skipped", "stopped"]
    seconds: float = 0.0
    note: str = ""
    fresh: bool = True


class Workers(Protocol):
    """Where tasks run: at most `slots` at a time are given to `start`."""

    slots: int

    def start(self, task: Task) -> Any:
        """Begin; a handle."""

    def wait(self, handles: list[Any], seconds: float) -> list[Any]:
        """Those that have ended, after at most so many seconds."""

    def result(self, handle: Any) -> tuple[int, str]:
        """Exit code of an ended one, and what else is known of a failure."""

    def stop(self) -> None:
        """Ask all to end (trainings write a checkpoint first); the second time, kill them."""

    def close(self) -> None:
        """After the last task."""


class Watcher(Protocol):
    """What is told of the progress."""

    def started(self, task: Task) -> None: ...

    def ended(self, task: Task, outcome: Outcome) -> None: ...

    def tick(self, running: Sequence[Task]) -> None: ...


def execute(tasks: Sequence[Task], workers: Workers, watcher: Watcher) -> dict[str, Outcome]:
    """Run what is not finished, in an order that respects `needs`; a failure stops only what needs it.

    Evaluations go before trainings, tasks of one kind in the order given. Ctrl-C or SIGTERM ends the running tasks and starts no more; the
    second one kills them.

    Args:
        tasks: names are unique and `needs` name tasks of this list.
        workers: where they run; closed at the end.
        watcher: told of every start and end, and several times a second what runs.

    Returns:
        One outcome per task.
    """
    by_name = {task.name: task for task in tasks}
    if len(by_name) < len(tasks) or not {need for task in tasks for need in task.needs} <= by_name.keys():
        raise ValueError("tasks need unique names, and may need only one another")
    order = {name: number for number, name in enumerate(by_name)}
    sorter = TopologicalSorter({task.name: task.needs for task in tasks})
    sorter.prepare()
    outcomes: dict[str, Outcome] = {}
    ready: list[Task] = []
    running: dict[Any, tuple[Task, float]] = {}

    def settle(task: Task, outcome: Outcome) -> None:
        outcomes[task.name] = outcome
        watcher.ended(task, outcome)
        sorter.done(task.name)

    signals = 0
    with _interrupts() as asked, _closing(workers):
        while sorter.is_active():
            for task in sorted((by_name[name] for name in sorter.get_ready()), key=lambda task: order[task.name]):
                broken = [need for need in task.needs if outcomes[need].state != "done"]
                seconds = None if broken else task.finished()
                if broken:
                    settle(task, Outcome("skipped", note=f"{broken[0]} {outcomes[broken[0]].state}"))
                elif seconds is not None:
                    settle(task, Outcome("done", seconds, fresh=False))
                else:
                    ready.append(task)
            ready.sort(key=lambda task: (task.kind != "eval", order[task.name]))
            while ready and len(running) < workers.slots and not asked:
                task = ready.pop(0)
                running[workers.start(task)] = (task, time.monotonic())
                watcher.started(task)
            if not running and asked:
                break
            for handle in workers.wait(list(running), 0.2) if running else ():
                task, begin = running.pop(handle)
                settle(task, _outcome(task, *workers.result(handle), time.monotonic() - begin, bool(asked)))
            watcher.tick([task for task, _ in running.values()])
            while signals < len(asked):
                signals += 1
                workers.stop()
    return {name: outcomes.get(name, Outcome("stopped", note="not started")) for name in by_name}


def run_command(argv: Sequence[str], log: Path, cwd: str, attend: Callable[[], int] = lambda: 0, keep: Sequence[int] = ()) -> int:
    """One process of this machine, from its start to its end.

    Args:
        argv: words for `python`.
        log: its output is appended there.
        cwd: working directory.
        attend: asked several times a second: 0 to go on, 1 to send SIGTERM, 2 to kill.
        keep: file descriptors that it inherits.

    Returns:
        Its exit code; negative for a signal.
    """
    if attend():  # asked to end before it began
        return -signal.SIGTERM
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *argv]
    if sys.platform == "linux":
        command = [sys.executable, "-S", "-c", LAUNCHER, str(os.getpid()), *command]
    with open(log, "ab") as file:
        file.write(f"$ python {shlex.join(argv)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,  # a Ctrl-C in the terminal reaches the study only, which then asks its tasks to end
            pass_fds=tuple(keep),
        )
        sent = 0
        try:
            while process.poll() is None:
                if attend() > sent:
                    sent = attend()
                    _signal(process, signal.SIGTERM if sent == 1 else signal.SIGKILL)
                time.sleep(0.05)
        except BaseException:
            _signal(process, signal.SIGTERM)
            process.wait()
            raise
    return process.returncode


def _outcome(task: Task, code: int, reason: str, seconds: float, asked: bool) -> Outcome:
    """Of a task that was run; a good one gets its stamp."""
    if code == 0 and task.output.exists():
        from lwd.run import write_json  # torch: not needed by the processes of a Ray cluster, nor to stop

        write_json(task.stamp, {"argv": list(task.argv), "recipe": task.recipe, "seconds": round(seconds, 2)})
        return Outcome("done", seconds)
    if asked:
        return Outcome("stopped", seconds, "stopped while it ran")
    if code == 0:
        reason = f"it ended without an error but did not write {task.output}"
    elif code < 0:
        reason = reason or f"killed by signal {-code} ({signal.Signals(-code).name})"
    return Outcome("failed", seconds, "\n".join(filter(None, (reason, tail(task.log)))))


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Within the block Ctrl-C and SIGTERM are only noted down, in the list."""
    asked: list[int] = []
    try:
        previous = {number: signal.signal(number, lambda n, _: asked.append(n)) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals stay the caller's
        previous = {}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _closing(workers: Workers) -> Iterator[None]:
    """Whatever goes wrong in the block, no task is left alone."""
    try:
        yield
    except BaseException:
        workers.stop()
        raise
    finally:
        workers.close()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):  # it may just have ended
        os.killpg(process.pid, number)
