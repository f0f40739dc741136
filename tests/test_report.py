"""What a user is shown: plots, videos and the report. Files are whole, of the promised size, and need nothing from elsewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lwd import plots, video
from lwd.errors import LWDError
from lwd.report import SYNTHETIC, Picture, Table, write_report

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


def metrics_file(path: Path) -> Path:
    lines = [{"stage": "autoencoder", "step": s, "L_BC": 1 / s, "held_out/L_BC": 2 / s, "L_KL": 0.0, "seconds": 1.0} for s in range(1, 90)]
    lines += [{"stage": "diffusion", "step": s, "loss": 1 / s} for s in range(10, 40, 10)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "diffusion", "st')
    return path


def panel_titles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the visible panels of the figures that will be written."""
    titles: list[str] = []
    write = plots._write

    def spy(figure: plots.Figure, path: Path) -> Path:
        titles.extend(a.get_title(loc="left") for a in figure.axes if a.get_visible())
        return write(figure, path)

    monkeypatch.setattr(plots, "_write", spy)
    return titles


def test_training_curves_has_a_panel_per_stage_and_quantity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = panel_titles(monkeypatch)
    path = plots.training_curves(metrics_file(tmp_path / "metrics.jsonl"), tmp_path / "plots" / "curves.png")
    assert titles == ["autoencoder · L_BC", "autoencoder · L_KL", "diffusion · loss"]
    with Image.open(path) as image:
        assert image.format == "PNG" and image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]  # no temporary file is left
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(LWDError, match="no metrics"):
        plots.training_curves(tmp_path / "empty.jsonl", path)


def test_every_plot_is_written(tmp_path: Path) -> None:
    latents = RNG.normal(size=(300, 8))
    written = [
        plots.latent_map(latents, tmp_path / "phase.png", colour=np.linspace(0, 1, 300), label="phase"),
        plots.latent_map(latents, tmp_path / "tag.png", colour=np.where(latents[:, 0] > 0, "left", "right")),
        plots.latent_map(latents[:, :1], tmp_path / "one_dimension.png"),
        plots.latent_overlay(latents, latents[:50] * 0.5, tmp_path / "overlay.png"),
        plots.score_over_time({"a": [[0.1, 0.5, 0.2], [0.3]], "b": [[0.0, 0.1]]}, tmp_path / "time.png"),
        plots.score_histogram({"a": [0.1, 1.0], "b": [0.5]}, tmp_path / "histogram.png"),
    ]
    for path in written:
        with Image.open(path) as image:
            assert min(image.size) > 300 and np.ptp(np.asarray(image.convert("L"))) > 100


def test_plots_leave_pyplot_alone() -> None:
    """Importing the plots must not choose a backend for the program around them."""
    code = "import sys, lwd.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_overlay_tells_the_spread_of_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = panel_titles(monkeypatch)
    data = RNG.normal(size=(4000, 4))
    plots.latent_overlay(data, data * 0.5, tmp_path / "overlay.png")
    assert "0.50" in titles[0]


def test_running_best_never_falls_and_outlives_a_short_episode() -> None:
    best = plots._running_max("x", [[0.1, 0.6, 0.2], [0.3]])
    np.testing.assert_allclose(best, [[0.1, 0.6, 0.6], [0.3, 0.3, 0.3]])


def test_projection_is_the_principal_one_whatever_the_sign() -> None:
    points = RNG.normal(size=(500, 3)) * [5.0, 1.0, 0.1]
    xy, shares = plots._project(points, points)
    assert abs(np.corrcoef(xy[:, 0], points[:, 0])[0, 1]) > 0.99 and shares[0] > 0.9
    np.testing.assert_allclose(plots._project(points, points)[0], xy)


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((1, 4)), np.full((3, 2), np.nan)])
def test_plots_refuse_what_is_not_a_set_of_latents(bad: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(LWDError, match="latents"):
        plots.latent_map(bad, tmp_path / "x.png")


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


def test_mp4_or_its_substitute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = [f[:63, :61] for f in frames()]
    path = video.save_mp4(odd, tmp_path / "walk.gif", fps=10)
    assert path.suffix in (".mp4", ".gif") and path.stat().st_size > 500
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if path.suffix == ".mp4":
        assert path.read_bytes()[4:8] == b"ftyp"
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert video.save_mp4(odd, tmp_path / "other.mp4", fps=10).suffix == ".gif"


def test_film_strip_shows_first_and_last(tmp_path: Path) -> None:
    with Image.open(video.film_strip(frames(), tmp_path / "strip.png", k=4)) as image:
        strip = np.asarray(image)
    assert strip.shape == (64, 4 * 64 + 3 * 4, 3)
    np.testing.assert_array_equal(strip[:, :64], frames()[0])
    np.testing.assert_array_equal(strip[:, -64:], frames()[-1])


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
    curve = plots.score_histogram({"a": [0.2, 0.9]}, directory / "plots" / "histogram.png")
    clip = video.save_gif(frames(8), directory / "videos" / "walk.gif", 10)
    return write_report(
        directory,
        title="LWD on <PushT> & more",
        intro="First **bold** paragraph.\n\nSecond with `lwd eval a|b`.",
        tables=[Table("Scores", ["condition", "overlap"], [["plain | 50 px", "0.76 [0.70, 0.82]"]], "95 % intervals")],
        figures=[Picture(curve, "Histogram")],
        videos=[Picture(clip, "Seed 1", 'says "hello"')],
        notes=["One seed."],
        facts={"command": "`make demo`", "data": data},
    )


def test_report_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    path = write_example(tmp_path / "run")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and len(page.sources) == 2
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text) and "@import" not in text and "<script" not in text
    shown = "".join(page.text)
    for words in ("LWD on <PushT> & more", "0.76 [0.70, 0.82]", "95 % intervals", "make demo", "One seed.", SYNTHETIC):
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
    page = Page(write_report(tmp_path, title="Empty", intro="Nothing yet.", tables=[Table("None", ["a", "b"], [])]).read_text())
    assert page.open == [] and page.sources == []


def test_report_refuses_what_it_cannot_show(tmp_path: Path) -> None:
    with pytest.raises(LWDError, match="missing"):
        write_report(tmp_path, title="x", intro="", figures=[Picture(tmp_path / "no.png", "no")])
    with pytest.raises(LWDError, match="cannot be shown"):
        write_report(tmp_path, title="x", intro="", videos=[Picture(tmp_path / "no.avi", "no")])
    with pytest.raises(LWDError, match="2 cells for 3 columns"):
        Table("t", ["a", "b", "c"], [["1", "2"]])
    assert not (tmp_path / "report.html").exists()
