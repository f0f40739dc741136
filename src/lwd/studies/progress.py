"""The progress of a study: on a terminal a bar over all jobs and a line for each that runs, in a log file a line for each that ends."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from lwd.studies.jobs import Job, Outcome


class Progress:
    """Shows what `execute` does, within the context `bars`. `slots` jobs at a time are assumed for the time that is left."""

    def __init__(self, jobs: Mapping[str, Job], slots: int, title: str, console: Console | None = None) -> None:
        self.jobs, self.slots, self.console = jobs, slots, console or Console(stderr=True)
        self.outcomes: dict[str, Outcome] = {}
        self.running: dict[str, tuple[float, Any]] = {}
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn()
        self.bars = Bars(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self.total = self.bars.add_task(title, total=len(jobs), note="")

    def started(self, job: Job) -> None:
        """Adds a line for the job."""
        self.running[job.name] = (time.monotonic(), self.bars.add_task(f"  {job.name}", total=None, note=job.kind))

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Removes the job's line. That of a failed job stays on the screen, and in a log file that of every job."""
        self.outcomes[job.name] = outcome
        if job.name in self.running:
            self.bars.remove_task(self.running.pop(job.name)[1])
        if outcome.fresh and (not self.console.is_terminal or outcome.state in ("failed", "skipped")):
            took = "" if outcome.state == "skipped" else f"  {duration(outcome.seconds)}"
            text = f"[{len(self.outcomes)}/{len(self.jobs)}] {outcome.state:<7} {job.name}{took}{self.left()}"
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tick(self, running: int) -> None:
        """Updates the bar over all jobs."""
        states = [outcome.state for outcome in self.outcomes.values()]
        counts = "".join(f", {states.count(state)} {state}" for state in ("failed", "skipped") if state in states)
        note = f"{states.count('done')} of {len(self.jobs)} done, {running} running{counts}{self.left()}"
        self.bars.update(self.total, completed=len(states), note=note)

    def left(self) -> str:
        """The time that is left, in words."""
        now = time.monotonic()
        seconds = remaining(self.jobs, self.outcomes, {name: now - begin for name, (begin, _) in self.running.items()}, self.slots)
        return f", about {duration(seconds)} left" if seconds else ""


def remaining(jobs: Mapping[str, Job], outcomes: Mapping[str, Outcome], running: Mapping[str, float], slots: int) -> float | None:
    """Seconds until all jobs have ended, by the mean time of the finished ones of the same kind.

    `running` holds the seconds since the start of those that run. None while no job of some kind has been finished.
    """
    times: dict[str, list[float]] = defaultdict(list)
    for name, outcome in outcomes.items():
        times[jobs[name].kind] += [outcome.seconds] if outcome.state == "done" else []
    rest = [(name, times[job.kind]) for name, job in jobs.items() if name not in outcomes]
    if not all(known for _, known in rest):
        return None
    return sum(max(0.0, sum(known) / len(known) - running.get(name, 0.0)) for name, known in rest) / max(1, min(slots, len(rest)))


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h 20 min`, `12 days`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 4 * 24 * 60 else f"{minutes / 1440:.0f} days"
