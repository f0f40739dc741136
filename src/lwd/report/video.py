"""Videos of episodes: captions under the frames, and GIFs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lwd.files import write_bytes

Frame = NDArray[np.uint8]  # (H, W, 3) RGB

MAX_BYTES = 2_000_000  # of a GIF: small enough for a README and for an inline report
SIZE = 192  # pixels, longer side of a GIF's picture
HOLD = 3  # frames that a mark stays lit: one alone is too short to see
PAPER, INK, FAINT, BLUE, RED, GREEN, GHOST = "#FFFFFF", "#222222", "#C9CED6", "#0072B2", "#D55E00", "#009E73", "#8E97A3"  # Okabe and Ito


def annotate(
    frames: Sequence[Frame], episode: Mapping[str, Any], scores: Sequence[float] = (), futures: Mapping[int, tuple[Any, int]] | None = None
) -> list[Frame]:
    """T + 1 frames of an episode with a caption below: step, score, marks, and the curve of the T `scores` in [0, 1] so far.

    The record of the episode (`lwd.rollout.Records`) tells the steps at which a new policy was asked for, what caused it, the age of the
    policy that acts, and the steps during which something pushed the block: they get a frame around the picture, over which nothing is
    drawn. Large pictures are shrunk to `SIZE`. `futures` are those that a query at a step has considered (`Records.futures`): ghosts in the
    picture until the next query, the chosen one in blue.
    """
    total, captioned = len(frames) - 1, []
    causes = dict(zip(episode.get("queried_at", ()), episode.get("causes", ()), strict=False))
    displaced, ages = episode.get("displaced_at", ()), episode.get("ages", ())
    for t, frame in enumerate(frames):
        picture = _shrink(frame, SIZE / max(frame.shape))
        width, height = picture.size
        if futures and (asked := [step for step in futures if step <= t]):
            picture = _ghosts(picture, *futures[max(asked)])
        unit = max(10, width // 16)  # height of a line of text, pixels
        canvas = Image.new("RGB", (width, height + 4 * unit), PAPER)
        canvas.paste(picture, (0, 0))
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=0.8 * unit)
        # the step shown by frame t was taken from t - 1: its disturbance is visible now; a policy asked at t acts from now on
        text = f"step {t}/{total}" + (f"    score  {scores[t - 1]:.2f}" if scores and t else "")
        draw.text((unit // 2, height + unit // 2), text, INK, font=font, anchor="lt")
        if t < len(ages):
            draw.text((unit // 2, height + 1.5 * unit), f"age {ages[t]}", INK, font=font, anchor="lt")
        if any(t - 1 - k in displaced for k in range(HOLD)):
            draw.rectangle((0, 0, width - 1, height - 1), outline=RED, width=max(2, width // 96))
            draw.text((width - unit // 2, height + unit // 2), "pushed", RED, font=font, anchor="rt")
        if recent := [causes[t - k] for k in range(HOLD) if t - k in causes]:
            draw.text((width - unit // 2, height + 1.5 * unit), f"query: {recent[0]}", BLUE, font=font, anchor="rt")
        # the episode from left to right: score so far as a curve, queries as ticks below it, disturbances as ticks above
        top, bottom = height + 2.6 * unit, height + 3.7 * unit
        x = np.linspace(unit // 2, width - unit // 2, total + 1).tolist()
        draw.line((x[0], bottom, x[-1], bottom), FAINT)
        draw.line((x[0], bottom, x[t], bottom), INK)
        for step in [step for step in causes if step <= t]:
            draw.line((x[step], bottom - 2, x[step], bottom + 2), BLUE)
        for step in [step for step in displaced if step < t]:
            draw.line((x[step + 1], top, x[step + 1], top + 3), RED)
        heights = bottom - (bottom - top) * np.clip(scores[:t], 0, 1)
        draw.line(list(zip(x[1:], heights.tolist(), strict=False)), GREEN, width=2)
        captioned.append(np.asarray(canvas, np.uint8))
    return captioned


def save_gif(frames: Sequence[Frame], path: Path, fps: float, *, size: int = SIZE) -> Path:
    """Writes pictures (H, W, 3) uint8, all of one size, as an endless GIF of 96 colours, at most `size` wide; returns the path of the .gif.

    It gets smaller, and loses frames, until it fits into `MAX_BYTES`. Of a fast recording about 25 frames per second are kept.
    """
    thinning = max(1, round(fps / 25))
    if thinning > 1:
        frames, fps = [*frames[:-1:thinning], frames[-1]], fps / thinning
    duration = max(20, round(100 / fps) * 10)  # ms; browsers slow down anything faster than 20
    for scale, stride in ((1.0, 1), (0.8, 1), (0.8, 2), (0.6, 2), (0.6, 4), (0.4, 8)):
        pictures = [_shrink(frame, min(1, size / frame.shape[1]) * scale) for frame in frames[::stride]]
        # one palette for all frames (a new one per frame makes flat colours flicker), without dithering (it defeats the compression)
        sample = Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures[:: -(-len(pictures) // 9)]]))
        palette = sample.quantize(96, method=Image.Quantize.MEDIANCUT)
        first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
        buffer = io.BytesIO()
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=duration * stride, loop=0, optimize=False)
        if buffer.tell() <= MAX_BYTES:
            break
    write_bytes(path.with_suffix(".gif"), buffer.getvalue())
    return path.with_suffix(".gif")


def _ghosts(picture: Image.Image, places: NDArray[np.float64], chosen: int) -> Image.Image:
    """Imagined futures (count, T + 1, 2) as thin lines, the chosen one in blue and on top."""
    draw = ImageDraw.Draw(picture)
    for number in [*(i for i in range(len(places)) if i != chosen), chosen]:
        points = [tuple(point) for point in (places[number] * picture.size).tolist()]
        draw.line(points, BLUE if number == chosen else GHOST, width=2 if number == chosen else 1)
        x, y = points[-1]
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=BLUE if number == chosen else GHOST)
    return picture


def _shrink(frame: Frame, scale: float) -> Image.Image:
    height, width = (round(side * min(1, scale)) for side in frame.shape[:2])
    return Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)  # a copy, where nothing shrinks
