"""The processes of a study's jobs: started, asked to end, killed; and the lock of its directory."""

from __future__ import annotations

import concurrent.futures
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lwd.errors import LWDError
from lwd.studies.jobs import Job

PATIENCE = 60.0  # seconds to wait for the processes of an earlier run of the same study, which may be writing their checkpoints
# Linux ends a child when its parent dies, however that happens (PR_SET_PDEATHSIG = 1): nothing is left to write into a run behind the back
# of the next study. Set by a step of its own, since code between fork and exec is unsafe in a process with threads.
LAUNCHER = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(143); os.execv(sys.argv[2], sys.argv[2:])"
)


class LocalWorkers:
    """Subprocesses of this machine: at most `slots` at a time are given to `start`, and all inherit the file descriptors `keep`."""

    def __init__(self, slots: int, keep: Sequence[int] = ()) -> None:
        self.slots, self.keep, self.signals = slots, tuple(keep), 0
        self.pool = concurrent.futures.ThreadPoolExecutor(slots)

    def start(self, job: Job) -> concurrent.futures.Future[int]:
        """Starts a job and returns a handle to wait for."""
        return self.pool.submit(run_job, job.file, job.log, os.getcwd(), lambda: self.signals, self.keep)

    def wait(self, handles: list[Any], seconds: float) -> list[Any]:
        """The handles of jobs that have ended, after at most so many seconds."""
        return list(concurrent.futures.wait(handles, seconds, concurrent.futures.FIRST_COMPLETED).done)

    def result(self, handle: concurrent.futures.Future[int]) -> tuple[int, str]:
        """Exit code of a job that has ended, and what else is known of a failure."""
        try:
            return handle.result(), ""
        except OSError as error:  # no memory for another process, a full disk
            return 1, str(error)

    def stop(self) -> None:
        """Asks all to end (trainings write a checkpoint first); the second time, kills them."""
        self.signals += 1

    def close(self) -> None:
        self.pool.shutdown()


def run_job(file: Path, log: Path, cwd: str, attend: Callable[[], int] = lambda: 0, keep: Sequence[int] = ()) -> int:
    """One process of this machine, from its start to its end.

    Args:
        file: content of the job.
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
    command = [sys.executable, "-m", "lwd.studies.execute", str(file)]
    if sys.platform == "linux":
        command = [sys.executable, "-S", "-c", LAUNCHER, str(os.getpid()), *command]
    with open(log, "ab") as output:
        output.write(f"$ {shlex.join(command[-3:])}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # the parallelism is between jobs
            start_new_session=True,  # a Ctrl-C in the terminal reaches the study only, which then asks its jobs to end
            pass_fds=tuple(keep),
        )
        sent = 0
        try:
            while process.poll() is None:
                if attend() > sent:
                    sent = attend()
                    with suppress(ProcessLookupError):  # it may just have ended
                        os.killpg(process.pid, signal.SIGTERM if sent == 1 else signal.SIGKILL)
                time.sleep(0.05)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return process.returncode


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
        deadline, said = time.monotonic() + patience, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise LWDError(f"another process runs the study in {out}: wait for it, or choose another --out") from None
            if not said:
                print(f"{out} is in use: waiting up to {patience:.0f} seconds for the processes of an earlier run to end", file=sys.stderr)
                said = True
            time.sleep(0.2)
        yield (file.fileno(),)
