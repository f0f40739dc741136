"""What a user is shown: plots, videos and the report. Files are whole, of the promised size, and need nothing from elsewhere."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lwd.config import EvalSettings
from lwd.diagnose.decoded import Fixed
from lwd.evaluate import evaluate
from lwd.methods.base import ChunkController
from lwd.report import plots, video
from lwd.report.report import SYNTHETIC, Content, Picture, write_report
from lwd.report.tables import Table, markdown, tabulate, terminal
from lwd.rollout import Scenario

RNG = np.random.default_rng(0)


def frames(count: int = 30, size: int = 64) -> list[video.Frame]:
    """A dark square that walks over a white board."""
    pictures = []
    for t in range(count):
        frame = np.full((size, size, 3), 255, np.uint8)
        x = t * (size - 10) // count
        frame[20:30, x : x + 10] = (40, 80, 160)
        pictures.append(frame)
    return pictures


def metrics() -> list[dict]:
    lines: list[dict] = [{"stage": "autoencoder", "step": s, "L_BC": 1 / s, "held_out/L_BC": 2 / s, "L_KL": 0.0} for s in range(1, 90)]
    return [
        *lines,
        *({"stage": "diffusion", "step": s, "loss": 1 / s} for s in (10, 20, 30)),
        {"stage": "diffusion", "step": 30, "loss": 0.5},
    ]


def test_training_curves_has_a_panel_per_stage_and_quantity(tmp_path: Path) -> None:
    figure = plots.training_curves(metrics())
    assert figure is not None
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    assert list(shown) == ["autoencoder · L_BC", "autoencoder · L_KL", "diffusion · loss"]
    legend = shown["autoencoder · L_BC"].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["train", "held out"]
    assert shown["autoencoder · L_BC"].get_yscale() == "log" and shown["autoencoder · L_KL"].get_yscale() == "linear"
    np.testing.assert_allclose(np.asarray(shown["diffusion · loss"].lines[0].get_ydata()), [0.1, 0.05, 0.5])  # the later line counts
    path = plots.save(figure, tmp_path / "plots" / "curves.png")
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 300 and np.ptp(np.asarray(image.convert("L"))) > 100
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]  # no temporary file is left
    assert plots.training_curves([]) is None


def test_plots_leave_pyplot_alone() -> None:
    """Importing the plots must not choose a backend for the program around them."""
    code = "import sys, lwd.report.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_running_best_never_falls_and_outlives_a_short_episode() -> None:
    (line,) = plots.score_over_time({"x": [[0.1, 0.6, 0.2], [0.3]]}).axes[0].lines
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [0.2, 0.45, 0.45])


def test_histogram_shows_shares_and_means() -> None:
    axes = plots.score_histogram({"a": [0.11, 0.12, 0.99, 0.98]}).axes[0]
    outline = axes.patches[0].get_xy()  # type: ignore[attr-defined]
    assert outline[:, 1].max() == 50 and axes.lines[-1].get_xdata()[0] == pytest.approx(0.55)  # type: ignore[index]


def test_projection_is_the_principal_one_whatever_the_sign() -> None:
    points = RNG.normal(size=(500, 3)) * [5.0, 1.0, 0.1]
    xy, names = plots.project(points, points)
    assert abs(np.corrcoef(xy[:, 0], points[:, 0])[0, 1]) > 0.99 and names[0].startswith("component 1 (9")
    np.testing.assert_allclose(plots.project(points, points, (1, 0))[0], xy[:, ::-1])
    np.testing.assert_allclose(plots.project(points[::-1], points)[0], xy, atol=1e-9)
    assert not plots.project(points[:1], points[:1])[0].any(), "one snippet has no spread"


def test_gif_plays_every_frame_at_its_speed(tmp_path: Path) -> None:
    path = video.save_gif(frames(), tmp_path / "videos" / "walk.mp4", fps=10)
    assert path.name == "walk.gif"
    with Image.open(path) as image:
        assert image.n_frames == 30 and image.info["duration"] == 100 and image.info["loop"] == 0 and image.size == (64, 64)
        image.seek(15)
        middle = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(middle - frames()[15]).max() < 30


def test_gif_of_a_fast_recording_drops_frames_and_keeps_its_length(tmp_path: Path) -> None:
    pictures = frames(40)
    with Image.open(video.save_gif(pictures, tmp_path / "fast.gif", fps=80)) as gif:
        assert gif.n_frames == 14 and gif.info["duration"] == 40  # 0.52 s of 0.5
        gif.seek(13)
        np.testing.assert_allclose(np.asarray(gif.convert("RGB"), float), pictures[-1], atol=24)


def test_gif_stays_under_its_limit_even_for_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_BYTES", 150_000)
    noise = [RNG.integers(0, 255, (96, 96, 3)).astype(np.uint8) for _ in range(60)]
    path = video.save_gif(noise, tmp_path / "noise.gif", fps=20)
    assert path.stat().st_size <= 150_000


def record(steps: int, asked: Iterable[int] = (), **changes: Any) -> dict[str, Any]:
    """What a rollout says of an episode with queries at these steps."""
    queries = list(asked)
    causes = ["start" if step == 0 else "interval" for step in queries]
    ages = [step - max((own for own in queries if own <= step), default=0) for step in range(steps)]
    return {"queried_at": queries, "causes": causes, "ages": ages, **changes}


def test_captioned_episode_of_pusht_size_fits_a_readme(tmp_path: Path) -> None:
    captioned = video.annotate(frames(301, 384), record(300, range(0, 300, 16), displaced_at=[40, 41]), np.linspace(0, 1, 300).tolist())
    assert {f.shape for f in captioned} == {captioned[0].shape} and captioned[0].shape[1] == 192 and captioned[0].shape[0] > 192
    assert video.save_gif(captioned, tmp_path / "episode.gif", fps=10).stat().st_size < 2_000_000


def test_marks_show_when_they_should() -> None:
    plain = video.annotate(frames(), record(29))
    asked = video.annotate(frames(), record(29, [10], ages=record(29)["ages"]))
    pushed = video.annotate(frames(), record(29, displaced_at=[20]))
    first, second, whole = slice(64, 79), slice(79, 90), slice(40, 64)  # lines of text below the picture, right ends
    assert differing(asked, plain, second, whole) == [10, 11, 12] and differing(asked, plain, first, whole) == []
    assert differing(pushed, plain, first, whole) == [21, 22, 23]
    border = [t for t in range(30) if not np.array_equal(pushed[t][0], plain[t][0])]
    assert border == [21, 22, 23]  # the push of step 20 is first seen in frame 21


def differing(a: list[video.Frame], b: list[video.Frame], *part: slice) -> list[int]:
    """Frames that are not the same there."""
    return [t for t, (one, other) in enumerate(zip(a, b, strict=True)) if not np.array_equal(one[part], other[part])]


def test_a_video_tells_the_age_of_the_policy_and_why_it_was_asked_for() -> None:
    """The age stands on the left, the cause on the right of the second line of text; a picture is not touched."""
    line, left, right = slice(211, 225), slice(0, 80), slice(80, 192)
    pictures = frames(13, 192)
    every = video.annotate(pictures, record(12, [0, 4, 8]))
    older = video.annotate(pictures, record(12, [0, 4, 8], ages=[0, 1, 2, 3, 4, 1, 2, 3, 0, 1, 2, 3]))
    assert differing(every, older, line, left) == [4] and differing(every, older, line, right) == []
    sudden = video.annotate(pictures, record(12, [0, 4, 8], causes=["start", "monitor", "interval"]))
    assert differing(every, sudden, line, right) == [4, 5, 6] and differing(every, sudden, line, left) == []
    assert differing(every, sudden, slice(0, 192)) == [], "nothing is drawn over the picture"
    ages = [frame[line, left].tobytes() for frame in every]
    assert ages[0] == ages[4] == ages[8] and len(set(ages[:4])) == 4, "equal ages look alike, others do not"
    assert ages[12] not in ages[:12], "after the last action no policy acts"
    before = video.annotate(pictures, {"queried_at": [0]} | {"causes": ["start"]})
    assert len(before) == 13, "a record without ages is drawn, too"


class Page(HTMLParser):
    """Tags with what they refer to, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [v for k, v in attrs if k in ("src", "href") and v]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def write_example(directory: Path, data: str = "synthetic: scripted expert") -> Path:
    curve = plots.save(plots.score_histogram({"a": [0.2, 0.9]}), directory / "plots" / "histogram.png")
    clip = video.save_gif(frames(8), directory / "videos" / "walk.gif", 10)
    content = Content(
        title="LWD on <PushT> & more",
        intro="First **bold** paragraph.\n\nSecond with `lwd eval a|b`.",
        tables=[Table("Scores", ["condition", "overlap"], [["plain | 50 px", "0.76 [0.70, 0.82]"]], "95 % intervals")],
        figures=[Picture(curve, "Histogram")],
        videos=[Picture(clip, "Seed 1", 'says "hello"')],
        steps=["Train `longer`."],
        notes=["One seed."],
        facts={"command": "`make demo`", "data": data},
    )
    return write_report(directory, content)


def test_report_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    path = write_example(tmp_path / "run")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and len(page.sources) == 2
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text) and "@import" not in text and "<script" not in text
    shown = "".join(page.text)
    for words in ("LWD on <PushT> & more", "0.76 [0.70, 0.82]", "95 % intervals", "make demo", "One seed.", "Train longer.", SYNTHETIC):
        assert words in shown
    assert "<strong>bold</strong>" in text and "<code>lwd eval a|b</code>" in text and "color-scheme: light dark" in text


def test_markdown_twin_says_the_same_and_its_links_work(tmp_path: Path) -> None:
    write_example(tmp_path / "run")
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "| plain \\| 50 px | 0.76 [0.70, 0.82] |" in text and SYNTHETIC in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert sorted(links) == ["plots/histogram.png", "videos/walk.gif"]
    assert all((tmp_path / "run" / link).is_file() for link in links)


def test_human_data_carries_no_warning(tmp_path: Path) -> None:
    assert SYNTHETIC not in write_example(tmp_path, data="206 human demonstrations").read_text(encoding="utf-8")


def test_report_without_anything_but_words(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, Content("Empty", "Nothing yet.", tables=[Table("None", ["a", "b"], [])])).read_text())
    assert page.open == [] and page.sources == []


def test_what_data_says_about_itself_is_no_markup(tmp_path: Path) -> None:
    text = "a [b](javascript:c) ![d](http://e.org/f.png) <http://g.org> <script>h</script>"
    page = Page(write_report(tmp_path, Content(text, text, facts={"data": text})).read_text())
    assert page.open == [] and page.sources == [] and "".join(page.text).count("<script>h</script>") == 4


def shown_in_terminal(table: Table, width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(table))
    return console.export_text()


def test_a_table_is_the_same_in_the_terminal_and_in_markdown() -> None:
    table = Table("T", ["name", "score", "verdict"], [["a [x]", "**0.5** [0.1, 0.9]", "ok"], ["b|c", "–", "broken"]], "what it is")
    text = shown_in_terminal(table)
    for words in ("T", "a [x]", "0.5 [0.1, 0.9]", "broken", "what it is"):
        assert words in text
    assert "**" not in text
    assert markdown(table).splitlines()[2:4] == ["| a [x] | **0.5** [0.1, 0.9] | ok |", "| b\\|c | – | broken |"]


def test_results_become_tables() -> None:
    still = Fixed(lambda: ChunkController(torch.full((3, 5, 2), 250.0)), 5)
    settings = EvalSettings(disturb="displace:50", max_steps=5)
    result = evaluate(still, Scenario("pusht", "keypoints", (1, 2, 3)), settings, name="still", workers=0)
    table = tabulate([result], "run")
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["result"], row["replan every"], row["disturb"], row["n"], row["queries"]) == ("still", "5", "displace:50", "3", "1.0")
    assert re.fullmatch(r"0\.\d\d \[0\.\d\d, 0\.\d\d\]", row["max overlap"])
    assert "too narrow" in table.caption, "three episodes are few"
    assert row["max overlap"] in shown_in_terminal(table, width=60), "one result is upright, and fits a narrow window"
