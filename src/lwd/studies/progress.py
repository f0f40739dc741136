"""One view of a whole grid: a bar over all tasks and a line for each that runs; in a log file, a line for each that ends."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from lwd.studies.files import training_progress
from lwd.studies.tasks import Outcome, Task

EVERY = 0.5  # seconds between looks at the files of running tasks


class View:
    """Shows the progress of `execute` on a console (standard error by default); a context manager.

    Args:
        tasks: all of them.
        slots: tasks at a time, for the estimate.
        title: of the bar.
        console: a rich console.
    """

    def __init__(self, tasks: Sequence[Task], slots: int, title: str, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.tasks, self.slots = list(tasks), slots
        self.console = console or Console(stderr=True)
        self.outcomes: dict[str, Outcome] = {}
        self.begun: dict[str, float] = {}
        self.looked = 0.0
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.total = self.bars.add_task(title, total=len(tasks), note="")
        self.lines: dict[str, Any] = {}

    def __enter__(self) -> View:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def started(self, task: Task) -> None:
        """A line for it."""
        self.begun[task.name] = time.monotonic()
        self.lines[task.name] = self.bars.add_task(f"  {task.name}", total=1.0, note=task.kind)

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Away with the line; one that stays where it failed, or where nothing is redrawn."""
        self.outcomes[task.name] = outcome
        self.begun.pop(task.name, None)
        if task.name in self.lines:
            self.bars.remove_task(self.lines.pop(task.name))
        if outcome.fresh and (not self.console.is_terminal or outcome.state in ("failed", "skipped")):
            text = f"[{len(self.outcomes)}/{len(self.tasks)}] {outcome.state:<7} {task.name}"
            if outcome.state != "skipped":
                text += f"  {duration(outcome.seconds)}"
            if outcome.state == "done":
                text += self._left()
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tick(self, running: Sequence[Task]) -> None:
        """Progress of what runs."""
        if time.monotonic() - self.looked < EVERY or not self.console.is_terminal:
            return
        self.looked = time.monotonic()
        for task in running:
            fraction, note = training_progress(task.run) if task.kind == "train" else (0.0, "")
            self.bars.update(self.lines[task.name], completed=fraction, note=note or task.kind)
        states = Counter(outcome.state for outcome in self.outcomes.values())
        note = f"{states['done']} of {len(self.tasks)} done, {len(running)} running"
        note += "".join(f", {states[state]} {state}" for state in ("failed", "skipped") if states[state])
        self.bars.update(self.total, completed=len(self.outcomes), note=note + self._left())

    def _left(self) -> str:
        seconds = remaining(self.tasks, self.outcomes, {n: time.monotonic() - b for n, b in self.begun.items()}, self.slots)
        return "" if not seconds else f", about {duration(seconds)} left"


def remaining(tasks: Sequence[Task], outcomes: Mapping[str, Outcome], running: Mapping[str, float], slots: int) -> float | None:
    """Seconds until all have ended, by the mean time of the finished ones of the same group.

    Args:
        tasks: all.
        outcomes: of those that have ended.
        running: seconds since the start of those that run.
        slots: tasks at a time.

    Returns:
        None while no task of some kind has been finished.
    """
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for task in tasks:
        outcome = outcomes.get(task.name)
        if outcome is not None and outcome.state == "done":
            for key in ((task.kind, task.group), (task.kind, "")):
                times[key].append(outcome.seconds)
    total = 0.0
    for task in tasks:
        if task.name in outcomes:
            continue
        known = times.get((task.kind, task.group)) or times.get((task.kind, ""))
        if not known:
            return None
        total += max(0.0, sum(known) / len(known) - running.get(task.name, 0.0))
    return total / max(1, min(slots, len(tasks) - len(outcomes)))


def duration(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h 20 min`, `12 days`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 4 * 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes / 1440:.0f} days"
