"""What a user is shown: plots, videos and the report. Files are whole, of the promised size, and need nothing from elsewhere."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from lwd.config import EvalSettings
from lwd.diagnose.decoded import Fixed, Replay
from lwd.errors import LWDError
from lwd.evaluate import evaluate
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
    lines += [{"stage": "diffusion", "step": s, "loss": 1 / s} for s in range(10, 40, 10)]
    return [*lines, {"stage": "diffusion", "step": "damaged", "loss": 1.0}, {"stage": "diffusion", "step": 30, "loss": 0.5}]


def test_training_curves_has_a_panel_per_stage_and_quantity(tmp_path: Path) -> None:
    figure = plots.training_curves(metrics())
    shown = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    assert list(shown) == ["autoencoder · L_BC", "autoencoder · L_KL", "diffusion · loss"]
    legend = shown["autoencoder · L_BC"].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["train", "held out"]
    assert shown["autoencoder · L_BC"].get_yscale() == "log" and shown["autoencoder · L_KL"].get_yscale() == "linear"
    np.testing.assert_allclose(np.asarray(shown["diffusion · loss"].lines[0].get_ydata()), [0.1, 0.05, 0.5])  # the later line counts
    path = plots.save(figure, tmp_path / "plots" / "curves.png")
    with Image.open(path) as image:
        assert image.format == "PNG" and image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]  # no temporary file is left
    with pytest.raises(LWDError, match="no metrics"):
        plots.training_curves([])


def test_every_plot_is_written(tmp_path: Path) -> None:
    latents = RNG.normal(size=(300, 8))
    figures = [
        plots.latent_map(latents, colour=np.linspace(0, 1, 300), label="phase"),
        plots.latent_map(latents[:, :1]),
        plots.score_over_time({"a": [[0.1, 0.5, 0.2], [0.3]], "b": [[0.0, 0.1]]}),
    ]
    for number, figure in enumerate(figures):
        with Image.open(plots.save(figure, tmp_path / f"{number}.png")) as image:
            assert min(image.size) > 300 and np.ptp(np.asarray(image.convert("L"))) > 100


def test_latent_map_tells_groups_apart() -> None:
    latents = RNG.normal(size=(300, 8))
    axes = plots.latent_map(latents, colour=np.where(latents[:, 0] > 0, "left", "right"), label="side").axes[0]
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["left", "right"]
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 300
    assert "of variance" in axes.get_xlabel()


def test_plots_leave_pyplot_alone() -> None:
    """Importing the plots must not choose a backend for the program around them."""
    code = "import sys, lwd.report.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_overlay_tells_the_spread_of_the_samples() -> None:
    data = RNG.normal(size=(4000, 4))
    assert "0.50" in plots.latent_overlay(data, data * 0.5).axes[0].get_title(loc="left")
    with pytest.raises(LWDError, match="share a latent space"):
        plots.latent_overlay(data, data[:, :3])


def test_running_best_never_falls_and_outlives_a_short_episode() -> None:
    (line,) = plots.score_over_time({"x": [[0.1, 0.6, 0.2], [0.3]]}).axes[0].lines
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [0.2, 0.45, 0.45])


def test_histogram_shows_shares_and_means() -> None:
    axes = plots.score_histogram({"a": [0.11, 0.12, 0.99, 0.98]}).axes[0]
    heights = [patch.get_height() for patch in axes.patches if hasattr(patch, "get_height")]
    assert sorted(heights)[-2:] == [50, 50] and axes.lines[-1].get_xdata()[0] == pytest.approx(0.55)  # type: ignore[index]


def test_projection_is_the_principal_one_whatever_the_sign() -> None:
    points = RNG.normal(size=(500, 3)) * [5.0, 1.0, 0.1]
    xy, names = plots.project(points, points)
    assert abs(np.corrcoef(xy[:, 0], points[:, 0])[0, 1]) > 0.99 and names[0].startswith("component 1 (9")
    np.testing.assert_allclose(plots.project(points, points)[0], xy)
    np.testing.assert_allclose(plots.project(points, points, (1, 0))[0], xy[:, ::-1])


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((1, 4)), np.full((3, 2), np.nan)])
def test_plots_refuse_what_is_not_a_set_of_latents(bad: np.ndarray) -> None:
    with pytest.raises(LWDError, match="latents"):
        plots.latent_map(bad)


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


def test_gif_stays_under_its_limit_even_for_noise(tmp_path: Path) -> None:
    noise = [RNG.integers(0, 255, (96, 96, 3)).astype(np.uint8) for _ in range(60)]
    path = video.save_gif(noise, tmp_path / "noise.gif", fps=20, max_bytes=150_000)
    assert path.stat().st_size <= 150_000


def test_captioned_episode_of_pusht_size_fits_a_readme(tmp_path: Path) -> None:
    captioned = video.annotate(frames(301, 384), scores=np.linspace(0, 1, 300).tolist(), queries=range(0, 300, 16), displaced=[40, 41])
    assert {f.shape for f in captioned} == {captioned[0].shape} and captioned[0].shape[1] == 192 and captioned[0].shape[0] > 192
    assert video.save_gif(captioned, tmp_path / "episode.gif", fps=10).stat().st_size < 2_000_000


def test_marks_show_when_they_should() -> None:
    plain = video.annotate(frames(), size=64)
    asked = video.annotate(frames(), queries=[10], size=64)
    pushed = video.annotate(frames(), displaced=[20], size=64)
    badge = (slice(64, 74), slice(40, 64))  # right end of the line of text
    lit = [t for t in range(30) if not np.array_equal(asked[t][badge], plain[t][badge])]
    assert lit == [10, 11, 12]
    border = [t for t in range(30) if not np.array_equal(pushed[t][0], plain[t][0])]
    assert border == [21, 22, 23]  # the push of step 20 is first seen in frame 21
    with pytest.raises(LWDError, match="scores"):
        video.annotate(frames(5), scores=[0.0, 0.1])


def test_video_refuses_nothing_and_nonsense(tmp_path: Path) -> None:
    with pytest.raises(LWDError, match="no frames"):
        video.save_gif([], tmp_path / "x.gif", 10)
    with pytest.raises(LWDError, match="frame 1"):
        video.save_gif([frames()[0], frames()[0][:, :, 0]], tmp_path / "x.gif", 10)


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
    assert "<strong>bold</strong>" in text and "<code>lwd eval a|b</code>" in text and "prefers-color-scheme: dark" in text


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


def test_report_refuses_what_it_cannot_show(tmp_path: Path) -> None:
    with pytest.raises(LWDError, match="missing"):
        write_report(tmp_path, Content("x", "", figures=[Picture(tmp_path / "no.png", "no")]))
    with pytest.raises(LWDError, match="cannot be shown"):
        write_report(tmp_path, Content("x", "", videos=[Picture(tmp_path / "no.avi", "no")]))
    with pytest.raises(LWDError, match="2 cells for 3 columns"):
        Table("t", ["a", "b", "c"], [["1", "2"]])
    assert not (tmp_path / "report.html").exists()


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
    still = Fixed(lambda: Replay(torch.full((3, 5, 2), 250.0)), 5)
    settings = EvalSettings(perturbation=50.0, max_steps=5)
    result = evaluate(still, Scenario("pusht", "keypoints", (1, 2, 3)), settings, name="still", workers=0)
    table = tabulate([result], "run")
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["result"], row["replan every"], row["perturbation"], row["n"], row["queries"]) == ("still", "5", "50", "3", "1.0")
    assert re.fullmatch(r"0\.\d\d \[0\.\d\d, 0\.\d\d\]", row["max overlap"])
    assert "too narrow" in table.caption, "three episodes are few"
    assert row["max overlap"] in shown_in_terminal(table, width=60), "one result is upright, and fits a narrow window"
