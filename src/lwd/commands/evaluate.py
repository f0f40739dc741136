"""`lwd eval`: runs a trained model in its simulator; prints scores with intervals, and writes the result and videos."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from lwd.config import EvalSettings
from lwd.presets import shrink_evaluation

if TYPE_CHECKING:
    from lwd.rollout import Progress


@dataclass
class Eval:
    """Run the trained model in its simulator; print scores with intervals and write eval/<name>.json."""

    run: Positional[str]
    """Run directory."""
    settings: Annotated[EvalSettings, arg(name="")] = field(default_factory=EvalSettings)
    video: int = 0
    """Number of first episodes that a video is written of."""
    workers: int | None = None
    """Simulator processes. By default one per core."""
    device: str = "cpu"
    """Where the model computes."""
    name: str = ""
    """Name of the result. By default it is made from the settings."""
    debug: bool = False
    """Make everything so small that it takes seconds, to see that things run."""
    json: bool = False
    """Print the result as JSON, without the episodes."""

    def __call__(self) -> None:
        from lwd.evaluate import evaluate_run
        from lwd.training.run import Run

        settings = shrink_evaluation(self.settings) if self.debug else self.settings
        with progress_bar("evaluate", quiet=self.json) as progress:
            result, path, videos = evaluate_run(
                Run(self.run), settings, device=self.device, name=self.name, video=self.video, workers=self.workers, progress=progress
            )
        show(result, self.run, path, videos, as_json=self.json)


def show(result: dict[str, Any], title: str, path: Path, videos: Sequence[Path] = (), *, as_json: bool = False) -> None:
    """Prints a result without its episodes, and the files that were written."""
    from rich.console import Console

    from lwd.report.tables import tabulate, tabulate_tasks, terminal

    if as_json:
        paths = {"path": str(path), "videos": [str(video) for video in videos]}
        print(json.dumps({**{k: v for k, v in result.items() if k != "records"}, **paths}, indent=1))
        return
    if len(result.get("tasks", ())) > 1:
        Console().print(terminal(tabulate_tasks(result)))
    Console().print(terminal(tabulate([result], title)))
    print("\n".join(map(str, (path, *videos))))


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Progress]:
    """A bar for `progress(done, total)` callbacks; it disappears at the end."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True, disable=quiet) as bars:
        bar = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
