"""Where the tasks of a study run: threads that wait for subprocesses of this machine, or the same function on a Ray cluster."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lwd.errors import LWDError
from lwd.studies.tasks import LWD, Task, run_command

PATIENCE = 60.0  # seconds to wait for the processes of an earlier run of the same study, which may be writing their checkpoints


class LocalWorkers:
    """Subprocesses of this machine.

    Args:
        jobs: at a time.
        prefix: words for `python` before a task's own.
        keep: file descriptors that every process inherits.
    """

    def __init__(self, jobs: int, prefix: Sequence[str] = LWD, keep: Sequence[int] = ()) -> None:
        self.slots, self.prefix, self.keep = jobs, tuple(prefix), tuple(keep)
        self.pool = concurrent.futures.ThreadPoolExecutor(jobs)
        self.signals = 0

    def start(self, task: Task) -> concurrent.futures.Future[int]:
        return self.pool.submit(run_command, (*self.prefix, *task.argv), task.log, os.getcwd(), lambda: self.signals, self.keep)

    def wait(self, handles: list[Any], seconds: float) -> list[Any]:
        return list(concurrent.futures.wait(handles, seconds, concurrent.futures.FIRST_COMPLETED).done)

    def result(self, handle: concurrent.futures.Future[int]) -> tuple[int, str]:
        try:
            return handle.result(), ""
        except OSError as error:  # no memory for another process, a full disk
            return 1, str(error)

    def stop(self) -> None:
        self.signals += 1

    def close(self) -> None:
        self.pool.shutdown()


class RayWorkers:
    """The same subprocesses, each started by a Ray task (one CPU each; one GPU each where the study computes on CUDA).

    Every node needs this version of lwd and the same paths: data and results lie on a shared file system.

    Args:
        address: of the cluster ("auto", "host:6379", "ray://host:10001"), or "local" for one on this machine that ends with the study.
        jobs: at a time; None for as many as the cluster has room for. CPUs of a local cluster.
        flag: file on the shared file system by which tasks are asked to end.
        gpus: of each task.
        prefix: words for `python` before a task's own.

    Raises:
        LWDError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str, jobs: int | None, flag: Path, gpus: float = 0.0, prefix: Sequence[str] = LWD) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone unless the user asks for it
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise LWDError(f'Ray is not installed ({error}): run  pip install "latent-weight-diffusion[ray]"') from error
        settings: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **settings)
        except (ConnectionError, ValueError, TimeoutError, RuntimeError) as error:
            raise LWDError(
                f"there is no Ray cluster at {address!r} ({str(error).splitlines()[0]}): start one with `ray start --head`"
            ) from None
        self.ray, self.prefix, self.signals = ray, tuple(prefix), 0
        self.slots = jobs or sys.maxsize  # more than the cluster can run at once are queued by Ray, which lets it grow
        self.remote: Any = ray.remote(num_cpus=1, num_gpus=gpus)(run_command)
        self.handles: list[Any] = []
        self.flag = Flag(flag.absolute())
        self.flag.lower()

    def start(self, task: Task) -> Any:
        handle = self.remote.remote((*self.prefix, *task.argv), task.log.absolute(), os.getcwd(), self.flag)
        self.handles.append(handle)
        return handle

    def wait(self, handles: list[Any], seconds: float) -> list[Any]:
        return list(self.ray.wait(handles, num_returns=1, timeout=seconds)[0])

    def result(self, handle: Any) -> tuple[int, str]:
        self.handles.remove(handle)
        try:
            return self.ray.get(handle), ""
        except (self.ray.exceptions.RayError, KeyboardInterrupt) as error:
            return 1, f"Ray: {str(error).strip().splitlines()[0]}"

    def stop(self) -> None:
        # by a file: ray.cancel is lost on a task that is just being started. A node that does not answer is given up the second time
        self.signals += 1
        self.flag.raise_to(self.signals)
        for handle in self.handles if self.signals > 1 else ():
            self.ray.cancel(handle, force=True)

    def close(self) -> None:
        self.flag.lower()
        self.ray.shutdown()


class Flag:
    """How often the study was asked to stop, told to the tasks of a cluster by the size of a file; for `run_command`.

    Args:
        path: absolute, on the shared file system.
        every: seconds between looks.
    """

    def __init__(self, path: Path, every: float = 0.5) -> None:
        self.path, self.every, self.seen, self.looked = path, every, 0, -every

    def __call__(self) -> int:
        if time.monotonic() - self.looked >= self.every:
            self.looked = time.monotonic()
            with suppress(OSError):
                self.seen = max(self.seen, self.path.stat().st_size)
        return self.seen

    def raise_to(self, times: int) -> None:
        """Asked so many times."""
        self.path.write_bytes(b"." * times)

    def lower(self) -> None:
        """Not asked."""
        self.path.unlink(missing_ok=True)


@contextmanager
def study_lock(out: Path) -> Iterator[tuple[int, ...]]:
    """Hold a study's directory. Its processes inherit the lock, so that it is free only when the last of them has ended.

    Raises:
        LWDError: the study runs already.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on Windows: there two studies in one directory are the user's own care
        yield ()
        return
    with open(out / ".lock", "w") as file:
        deadline, said = time.monotonic() + PATIENCE, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise LWDError(f"another process runs the study in {out}: wait for it, or choose another --out") from None
            if not said:
                print(f"{out} is in use: waiting up to {PATIENCE:.0f} seconds for the processes of an earlier run to end", file=sys.stderr)
                said = True
            time.sleep(0.2)
        yield (file.fileno(),)
