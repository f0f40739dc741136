"""The processes of a study's jobs: started, asked to end, killed; and the lock of its directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lwd.errors import LWDError
from lwd.studies.jobs import Job

PATIENCE = 60.0  # seconds to wait for the processes of an earlier run of the same study, which may be writing their checkpoints
# Linux ends a child when its parent dies, however that happens (PR_SET_PDEATHSIG = 1): nothing is left to write into a run behind the back
# of the next study. Set by a step of its own, since code between fork and exec is unsafe in a process with threads.
LAUNCHER = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(143); os.execv(sys.argv[2], sys.argv[2:])"
)
Process = subprocess.Popen[bytes]


def launch(file: Path, log: Path, cwd: str, keep: Sequence[int] = ()) -> Process:
    """Starts the process of a job, whose output is appended to `log`; it inherits the file descriptors `keep`."""
    command = [sys.executable, "-m", "lwd.studies.execute", str(file)]
    if sys.platform == "linux":
        command = [sys.executable, "-S", "-c", LAUNCHER, str(os.getpid()), *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the parallelism is between jobs
    with open(log, "ab") as output:  # in a session of its own: a Ctrl-C reaches the study only, which then asks its jobs to end
        how = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
        return subprocess.Popen(command, cwd=cwd, env=environment, pass_fds=tuple(keep), **how)  # type: ignore[call-overload]


def ask(process: Process, times: int) -> None:
    """Asks a job to end (a training writes a checkpoint first); from the second time on, kills it."""
    with suppress(ProcessLookupError):  # it may just have ended
        os.killpg(process.pid, signal.SIGTERM if times == 1 else signal.SIGKILL)


class LocalWorkers:
    """Processes of this machine: at most `slots` at a time are given to `start`, and all inherit the file descriptors `keep`."""

    def __init__(self, slots: int, keep: Sequence[int] = ()) -> None:
        self.slots, self.keep, self.signals = slots, tuple(keep), 0
        self.processes: list[Process] = []

    def start(self, job: Job) -> Process:
        """Starts a job and returns a handle to wait for."""
        process = launch(job.file, job.log, os.getcwd(), self.keep)
        self.processes.append(process)
        return process

    def wait(self, handles: list[Process], seconds: float) -> list[Process]:
        """The handles of jobs that have ended, after some time."""
        time.sleep(seconds)
        return [process for process in handles if process.poll() is not None]

    def result(self, handle: Process) -> tuple[int, str]:
        """Exit code of a job that has ended, and what else is known of a failure."""
        self.processes.remove(handle)
        return handle.returncode, ""

    def stop(self) -> None:
        """Asks all to end; the second time, kills them."""
        self.signals += 1
        for process in self.processes:
            ask(process, self.signals)

    def close(self) -> None:
        """Waits for those that were asked to end."""
        for process in self.processes:
            process.wait()


@contextmanager
def interrupts() -> Iterator[list[int]]:
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
def study_lock(out: Path, patience: float = PATIENCE) -> Iterator[tuple[int, ...]]:
    """Holds a study's directory. Its processes inherit the lock, so that it is free only when the last of them has ended.

    Raises:
        LWDError: the study runs already, and still does after `patience` seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows: there two studies in one directory are the user's own care
        yield ()
        return
    with open(out / ".lock", "w") as file:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise LWDError(f"another process runs the study in {out}: wait for it, or choose another --out") from None
            time.sleep(0.2)
        yield (file.fileno(),)
