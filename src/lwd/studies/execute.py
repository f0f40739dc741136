"""Runs the jobs of a study as subprocesses with a partial order; `python -m lwd.studies.execute JOB.json` is one of them."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwd.config import Config, EvalSettings, from_dict
from lwd.errors import LWDError
from lwd.files import write_json
from lwd.studies.jobs import Job, Outcome
from lwd.studies.workers import interrupts

if TYPE_CHECKING:
    from lwd.studies.cluster import RayWorkers
    from lwd.studies.progress import Progress
    from lwd.studies.workers import LocalWorkers


def execute(jobs: Mapping[str, Job], workers: LocalWorkers | RayWorkers, progress: Progress) -> dict[str, Outcome]:
    """Runs what is not finished, in an order that respects `needs`; a failure stops only what needs it.

    Tests go before trainings, jobs of one kind in the order given. Ctrl-C or SIGTERM ends the running jobs and starts no more; the second
    one kills them. The workers are closed at the end.

    Returns:
        One outcome per job, in the same order.
    """
    order = list(jobs)
    sorter = TopologicalSorter({name: job.needs for name, job in jobs.items()})
    sorter.prepare()
    outcomes: dict[str, Outcome] = {}
    ready: list[Job] = []
    running: dict[Any, tuple[Job, float]] = {}

    def settle(job: Job, outcome: Outcome) -> None:
        outcomes[job.name] = outcome
        progress.ended(job, outcome)
        sorter.done(job.name)

    signals = 0
    with interrupts() as asked:
        try:
            while sorter.is_active():
                for job in sorted((jobs[name] for name in sorter.get_ready()), key=lambda job: order.index(job.name)):
                    broken = [need for need in job.needs if outcomes[need].state != "done"]
                    seconds = None if broken else job.finished()
                    if broken:
                        settle(job, Outcome("skipped", note=f"{broken[0]} {outcomes[broken[0]].state}"))
                    elif seconds is not None:
                        settle(job, Outcome("done", seconds, fresh=False))
                    else:
                        ready.append(job)
                ready.sort(key=lambda job: (job.kind == "train", order.index(job.name)))
                while ready and len(running) < workers.slots and not asked:
                    job = ready.pop(0)
                    write_json(job.file, job.content)
                    running[workers.start(job)] = job, time.monotonic()
                    progress.started(job)
                if not running and asked:
                    break
                for handle in workers.wait(list(running), 0.2) if running else ():
                    job, begin = running.pop(handle)
                    settle(job, outcome_of(job, *workers.result(handle), time.monotonic() - begin, bool(asked)))
                progress.tick(len(running))
                while signals < len(asked):
                    signals += 1
                    workers.stop()
        except BaseException:  # whatever goes wrong, no job is left alone
            workers.stop()
            raise
        finally:
            workers.close()
    return {name: outcomes.get(name, Outcome("stopped", note="not started")) for name in jobs}


def outcome_of(job: Job, code: int, reason: str, seconds: float, asked: bool) -> Outcome:
    """How a job that was run has ended; a good one gets its stamp."""
    if code == 0 and job.output.exists():
        write_json(job.stamp, {"key": job.key, "seconds": round(seconds, 2)})
        return Outcome("done", seconds)
    if asked:
        return Outcome("stopped", seconds, "stopped while it ran")
    if code == 0:
        reason = f"it ended without an error but did not write {job.output}"
    elif code < 0:
        reason = reason or f"killed by signal {-code} ({signal.Signals(-code).name})"
    lines = job.log.read_text(errors="replace").splitlines() if job.log.exists() else []
    return Outcome("failed", seconds, "\n".join(filter(None, (reason, *[line.rstrip() for line in lines if line.strip()][-5:]))))


def work(job: Mapping[str, Any]) -> None:
    """What a subprocess does with the content of its job."""
    from lwd.training.run import Run

    if job["kind"] == "train":
        from lwd.training.train import train

        train(from_dict(Config, job["config"]), quiet=True)
        return
    run, device, output, settings = Path(job["run"]), job["device"], Path(job["output"]), job.get("settings", {})
    if job["kind"] == "evaluate":
        from lwd.evaluate import evaluate_run

        evaluate_run(Run(run), from_dict(EvalSettings, settings), device=device, name=output.stem, workers=0)
    elif job["kind"] == "decode":
        from lwd.diagnose.decoded import decode_run

        write_json(output, decode_run(run, **settings, workers=0, device=device))
    elif job["what"] == "links":
        from lwd.diagnose.links import measure_links

        write_json(output, measure_links(Run(run), device))
    else:
        from lwd.diagnose.separability import separability

        write_json(output, separability(run, device))


def main() -> None:
    """One job of a study. A mistake that a sentence explains ends with that sentence, and a training that was asked to end with 130."""
    try:
        work(json.loads(Path(sys.argv[1]).read_text()))
    except LWDError as error:
        sys.exit(f"lwd: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
