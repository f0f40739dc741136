"""Runs the jobs of a study in a partial order, each in a process of its own, on this machine or on a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from lwd.files import write_json
from lwd.studies.jobs import Job

# Linux ends a child when its parent dies, however that happens (PR_SET_PDEATHSIG = 1): nothing is left to write into a run behind the back
# of the next study. Set by a step of its own, since code between fork and exec is unsafe in a process with threads.
LAUNCHER = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(143); os.execv(sys.argv[2], sys.argv[2:])"
)


class Outcome(NamedTuple):
    """How a job ended: done, failed (with an error), skipped (something that it needs failed), or stopped (by the user)."""

    state: Literal["done", "failed", "skipped", "stopped"]
    note: str = ""  # why it failed or was skipped, with the last lines of its log


def execute(jobs: Mapping[str, Job], executor: Executor, slots: int, stop: Path) -> dict[str, Outcome]:
    """Runs what is not finished, `slots` jobs at a time, in an order that respects `needs`; a failure stops only what needs it.

    Tests go before trainings, jobs of one kind in the order given. Ctrl-C or SIGTERM ends the running jobs and starts no more; the second
    one kills them. They are told by the size of the file `stop`, which all machines see. Returns an outcome for each job, in their order.
    """
    console = Console(stderr=True)
    outcomes = {name: Outcome("done") for name, job in jobs.items() if job.finished() is not None}
    todo = [job for job in jobs.values() if job.name not in outcomes]
    running: dict[Future[int], tuple[Job, float]] = {}
    names = TextColumn("{task.fields[names]}", table_column=Column(ratio=1, no_wrap=True))  # as much of them as fits
    columns, endless, hidden = (*Progress.get_default_columns(), MofNCompleteColumn(), names), float("inf"), not console.is_terminal
    bars = Progress(*columns, console=console, transient=True, expand=True, disable=hidden, speed_estimate_period=endless)
    bar = bars.add_task("jobs", total=len(jobs), completed=len(outcomes), names="")

    def settle(job: Job, outcome: Outcome, took: str = "") -> None:
        outcomes[job.name] = outcome
        text = f"[{len(outcomes)}/{len(jobs)}] {outcome.state:<7} {job.name}  {took}"
        console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)

    with bars, interrupts(stop):
        while running or (todo and not asked(stop)):
            for job in list(todo):
                broken = next((need for need in job.needs if need in outcomes and outcomes[need].state != "done"), None)
                if broken is not None:
                    todo.remove(job)
                    settle(job, Outcome("skipped", f"{broken} {outcomes[broken].state}"))
            ready = [job for job in todo if all(need in outcomes for need in job.needs)]
            ready.sort(key=lambda job: job.content["kind"] == "train")
            for job in ready[: slots - len(running)] if not asked(stop) else ():
                todo.remove(job)
                write_json(job.file, job.content)
                running[executor.submit(run_job, job.file.absolute(), job.log.absolute(), os.getcwd(), stop.absolute())] = job, time.time()
            bars.update(bar, completed=len(outcomes), names=" ".join(job.name for job, _ in running.values()))
            if asked(stop) > 1:  # they are being killed; a node of a cluster may not answer
                wait(running, 10)
                break
            for future in wait(running, 0.2, FIRST_COMPLETED).done:
                job, begin = running.pop(future)
                seconds = time.time() - begin
                settle(job, outcome_of(job, future, seconds, asked(stop) > 0), str(timedelta(seconds=round(seconds))))
    return {name: outcomes.get(name, Outcome("stopped")) for name in jobs}


def outcome_of(job: Job, future: Future[int], seconds: float, stopped: bool) -> Outcome:
    """How a job that was run has ended; a good one gets its stamp."""
    error = future.exception()
    code = 1 if error else future.result()
    if code == 0 and job.output.exists():
        write_json(job.file.with_suffix(".done"), {"key": job.key, "seconds": round(seconds, 2)})
        return Outcome("done")
    if stopped:
        return Outcome("stopped")
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code} and without {job.output.name}"
    lines = job.log.read_text(errors="replace").splitlines() if job.log.exists() else []
    return Outcome("failed", "\n".join([str(error or ended), *[line.rstrip() for line in lines if line.strip()][-5:]]))


def run_job(file: Path, log: Path, folder: str, stop: Path) -> int:
    """One job in a process of its own, from its start to its end; returns the exit code.

    It is asked to end when the file `stop` appears (a training writes a checkpoint first), and killed when the file grows.
    """
    if asked(stop):  # before it began
        return -signal.SIGTERM
    command = [sys.executable, "-m", "lwd.studies.jobs", str(file)]
    if sys.platform == "linux":
        command = [sys.executable, "-S", "-c", LAUNCHER, str(os.getpid()), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the parallelism is between jobs
    with open(log, "ab") as output:  # in a session of its own: a Ctrl-C reaches the study only, which then asks its jobs to end
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    told = 0
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
        if asked(stop) > told:
            told = asked(stop)
            with suppress(ProcessLookupError):  # it may just have ended
                os.killpg(process.pid, signal.SIGTERM if told == 1 else signal.SIGKILL)


def asked(stop: Path) -> int:
    """How often jobs were asked to end."""
    return stop.stat().st_size if stop.exists() else 0


@contextmanager
def interrupts(stop: Path) -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM are only noted down, in the file `stop`. An exception kills all jobs: none is left alone."""
    stop.unlink(missing_ok=True)

    def note(*_: object) -> None:
        stop.write_bytes(b"." * (asked(stop) + 1))

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException:
        stop.write_bytes(b"..")
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
