"""What the studies on Metaworld share: options, the evaluation of decoded policies as a task, and tables by task."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lwd.config import require
from lwd.studies.base import Study
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Table

EPISODE = 500  # steps
ENCODED = 100  # steps of a snippet that the encoder sees at most
STAGE_ONE = ("--method.diffusion.steps", "1", "--method.diffusion.batch", "1")  # nothing is sampled: the second stage is not needed


@dataclass
class MetaworldStudy(Study):
    """Options of the studies on Metaworld."""

    data: str = "data/metaworld-ten"
    """Demonstrations, as for `lwd train`: `lwd data collect metaworld` makes them."""
    episodes: int = 16
    """Episodes of each task in each cell; all cells run the same environment seeds."""
    demonstrations: int = 0
    """Take only the first so many demonstrations of each task; 0 takes all."""

    def data_words(self) -> tuple[str, ...]:
        """Options of `lwd train` for the demonstrations.

        Raises:
            LWDError: a negative number of them.
        """
        require(self.demonstrations >= 0, f"--demonstrations counts episodes: it must not be negative, but is {self.demonstrations}")
        return ("--demonstrations", str(self.demonstrations)) if self.demonstrations else ()

    def decoding(self, training: Task, steps: int = EPISODE) -> Task:
        """`lwd decode`: policies decoded from held-out demonstrations of a trained run, from their own starts."""
        name = f"decoded_h{steps}_n{self.episodes}"
        how = ("--workers", "0", "--device", self.device, "--name", name, "--json")
        argv = ("decode", str(training.run), "--episodes", str(self.episodes), "--horizon", str(steps), *how)
        task, output = f"{training.name}-{name}", training.run / "eval" / f"{name}.json"
        group = shlex.join((training.group, "decode"))
        return Task(task, argv, (training.name,), output, self._log(task), "eval", training.run, training.arm, group)


def length_words(length: int) -> tuple[str, ...]:
    """Options of `lwd train` for snippets of so many steps; whole episodes where it is that of one.

    Raises:
        LWDError: no such length.
    """
    require(2 <= length <= EPISODE, f"a snippet has 2 to {EPISODE} steps here, not {length}")
    starts = "first" if length == EPISODE else "every"
    return ("--horizon", str(length), "--starts", starts, "--method.stride", str(max(1, length // ENCODED)))


def length_name(length: int) -> str:
    """In words."""
    return "whole episodes" if length == EPISODE else f"snippets of {length} steps"


def task_table(entries: Sequence[Mapping[str, Any]], names: Sequence[str], score: str, title: str, tasks_across: bool = False) -> Table:
    """A row per task, the hardest first, and a column per pooled entry; or the other way round, where there are many entries."""
    from lwd.report import Table
    from lwd.statistics import Interval

    tasks = list(dict.fromkeys(task for entry in entries for task in entry.get("tasks", ())))
    found = {task: [entry.get("tasks", {}).get(task) for entry in entries] for task in tasks}

    def mean(task: str) -> float:
        own = [value["mean"] for value in found[task] if value is not None]
        return sum(own) / len(own)

    tasks = sorted(tasks, key=mean)
    rows = [["task", *names]]
    rows += [[task, *("–" if value is None else str(Interval.from_dict(value)) for value in found[task])] for task in tasks]
    if tasks_across:
        rows = [list(column) for column in zip(*rows, strict=True)]
        rows[0][0] = "model"
    caption = f"{score.replace('_', ' ')}. Brackets: 95 % intervals (Wilson) over the episodes of all training seeds."
    return Table(title, rows[0], rows[1:], caption)
