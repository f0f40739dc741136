"""The jobs of a study on a Ray cluster: Ray tasks start them (`lwd study NAME --ray ADDRESS`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from lwd.errors import LWDError


class RayExecutor(Executor):
    """Calls functions on a cluster: "auto", "host:6379", "ray://host:10001", or "local" for one on this machine that ends with the study.

    A local one has `cpus` CPUs (0: those of the machine). A call takes one, and `gpus` GPUs. Every node needs this version of lwd and the
    same paths: data and results lie on a shared file system.
    """

    def __init__(self, address: str, cpus: int, gpus: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone unless the user asks for it
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            raise LWDError(f'Ray is not installed ({error}): run  pip install "latent-weight-diffusion[ray]"') from error
        settings: dict[str, Any] = {"num_cpus": cpus or None, "include_dashboard": False} if address == "local" else {}
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **settings)
        except (ConnectionError, ValueError, TimeoutError, RuntimeError) as error:
            why = str(error).splitlines()[0]
            raise LWDError(f"there is no Ray cluster at {address!r} ({why}): start one with `ray start --head`") from None
        self.ray, self.remote = ray, ray.remote(num_cpus=1, num_gpus=gpus)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """More calls than the cluster can run at once are queued by Ray, which lets it grow."""
        return self.remote(function).remote(*arguments, **options).future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ray.shutdown()
