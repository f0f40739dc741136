"""The jobs of a study on a Ray cluster: the same processes, each started by a Ray task (`lwd study NAME --ray ADDRESS`)."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from lwd.errors import LWDError
from lwd.studies.jobs import Job
from lwd.studies.workers import ask, launch


class RayWorkers:
    """Every node needs this version of lwd and the same paths: data and results lie on a shared file system.

    Args:
        address: of the cluster ("auto", "host:6379", "ray://host:10001"), or "local" for one on this machine that ends with the study.
        slots: jobs at a time; 0 for as many as the cluster has room for. CPUs of a local cluster.
        flag: file on the shared file system by which jobs are asked to end: its size tells how often.
        gpus: of each job, beside its one CPU.

    Raises:
        LWDError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str, slots: int, flag: Path, gpus: float = 0.0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone unless the user asks for it
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise LWDError(f'Ray is not installed ({error}): run  pip install "latent-weight-diffusion[ray]"') from error
        settings: dict[str, Any] = {"num_cpus": slots or None, "include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **settings)
        except (ConnectionError, ValueError, TimeoutError, RuntimeError) as error:
            why = str(error).splitlines()[0]
            raise LWDError(f"there is no Ray cluster at {address!r} ({why}): start one with `ray start --head`") from None
        self.ray, self.signals, self.flag = ray, 0, flag.absolute()
        self.slots = slots or sys.maxsize  # more than the cluster can run at once are queued by Ray, which lets it grow
        self.remote: Any = ray.remote(num_cpus=1, num_gpus=gpus)(run_job)
        self.handles: list[Any] = []
        self.flag.unlink(missing_ok=True)

    def start(self, job: Job) -> Any:
        self.handles.append(self.remote.remote(job.file.absolute(), job.log.absolute(), os.getcwd(), self.flag))
        return self.handles[-1]

    def wait(self, handles: list[Any], seconds: float) -> list[Any]:
        return list(self.ray.wait(handles, num_returns=1, timeout=seconds)[0])

    def result(self, handle: Any) -> tuple[int, str]:
        self.handles.remove(handle)
        try:
            return self.ray.get(handle), ""
        except (self.ray.exceptions.RayError, KeyboardInterrupt) as error:
            return 1, f"Ray: {str(error).strip().splitlines()[0]}"

    def stop(self) -> None:
        # By a file: ray.cancel is lost on a task that is just being started. A node that does not answer is given up the second time.
        self.signals += 1
        self.flag.write_bytes(b"." * self.signals)
        for handle in self.handles if self.signals > 1 else ():
            self.ray.cancel(handle, force=True)

    def close(self) -> None:
        self.flag.unlink(missing_ok=True)
        self.ray.shutdown()


def run_job(file: Path, log: Path, cwd: str, flag: Path) -> int:
    """One job on a node of the cluster, from its start to its end; it is asked to end when the flag appears, killed when it grows."""
    asked = flag.stat().st_size if flag.exists() else 0
    if asked:  # before it began
        return -signal.SIGTERM
    process = launch(file, log, cwd)
    while process.poll() is None:
        time.sleep(0.5)
        now = flag.stat().st_size if flag.exists() else asked
        if now > asked:
            ask(process, asked := now)
    return process.returncode
