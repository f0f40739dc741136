"""Videos of episodes: captions under the frames, and GIFs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lwd.errors import LWDError
from lwd.files import write_bytes

Frame = NDArray[np.uint8]  # (H, W, 3) RGB

MAX_BYTES = 2_000_000  # of a GIF: small enough for a README and for an inline report
GIF_FPS = 25  # of a GIF at most, about
SIZE = 192  # pixels, longer side of a GIF's picture
HOLD = 3  # frames that a mark stays lit: one alone is too short to see
PAPER, INK, FAINT, BLUE, RED, GREEN = "#FFFFFF", "#222222", "#C9CED6", "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito


def annotate(
    frames: Sequence[Frame],
    *,
    scores: Sequence[float] = (),
    queries: Sequence[int] = (),
    displaced: Sequence[int] = (),
    size: int = SIZE,
) -> list[Frame]:
    """Frames with a caption below: step, score, marks, and the score's curve so far.

    Nothing is drawn over the picture, only a frame around it in steps with a perturbation.

    Args:
        frames: T + 1 pictures (H, W, 3) uint8, from the start to the last step.
        scores: T scores, in [0, 1]; entry t is reached by step t + 1; empty for no curve.
        queries: steps at which a new policy was generated (0 for the first).
        displaced: steps, counted from 0, during which something pushed the block.
        size: longer side of the picture in pixels; the frame is shrunk to it, never enlarged.

    Returns:
        The same number of pictures, all of one size.
    """
    _check(frames)
    if scores and len(scores) != len(frames) - 1:
        raise LWDError(f"{len(frames)} frames, from the start to the last step, need {len(frames) - 1} scores, not {len(scores)}")
    total, asked, pushed = len(frames) - 1, set(queries), set(displaced)
    captioned = []
    for t, frame in enumerate(frames):
        picture = _shrink(Image.fromarray(frame), size / max(frame.shape))
        width, height = picture.size
        unit = max(10, width // 16)  # height of a line of text, pixels
        canvas = Image.new("RGB", (width, height + 3 * unit), PAPER)
        canvas.paste(picture, (0, 0))
        draw = ImageDraw.Draw(canvas)
        # the step shown by frame t was taken from t - 1: its perturbation is visible now; a policy asked at t acts from now on
        disturbed = any(t - 1 - k in pushed for k in range(HOLD))
        if disturbed:
            draw.rectangle((0, 0, width - 1, height - 1), outline=RED, width=max(2, width // 96))
        font = ImageFont.load_default(size=0.8 * unit)
        text = f"step {t}/{total}" + (f"    score  {scores[t - 1]:.2f}" if scores and t else "")
        draw.text((unit // 2, height + unit // 2), text, INK, font=font, anchor="lt")
        right = (width - unit // 2, height + unit // 2)
        if disturbed:
            draw.text(right, "pushed", RED, font=font, anchor="rt")
        elif any(t - k in asked for k in range(HOLD)):
            draw.text(right, "new policy", BLUE, font=font, anchor="rt")
        _timeline(draw, (unit // 2, height + 1.6 * unit, width - unit // 2, height + 2.7 * unit), t, total, scores, asked, pushed)
        captioned.append(np.asarray(canvas, np.uint8))
    return captioned


def save_gif(frames: Sequence[Frame], path: Path, fps: float, *, max_bytes: int = MAX_BYTES, size: int = SIZE) -> Path:
    """An endless GIF in 96 colours chosen from the frames.

    Args:
        frames: pictures (H, W, 3) uint8, all of one size.
        path: file to write; its suffix becomes `.gif`.
        fps: frames per second; GIF counts hundredths of a second, so 30 becomes 33. Of a faster recording only every second, third, ...
            frame is kept, about 25 per second, and the last one.
        max_bytes: the GIF is made smaller, and then loses every other frame, until it fits.
        size: longest width in pixels.

    Returns:
        The path written.
    """
    _check(frames)
    path = Path(path).with_suffix(".gif")
    thinning = max(1, round(fps / GIF_FPS))
    if thinning > 1:
        frames, fps = [*frames[:-1:thinning], frames[-1]], fps / thinning
    duration = max(20, round(100 / fps) * 10)  # ms; browsers slow down anything faster than 20
    for scale, stride in ((1.0, 1), (0.8, 1), (0.8, 2), (0.6, 2), (0.6, 4), (0.4, 8)):
        width = max(16, round(min(size, frames[0].shape[1]) * scale))
        data = _gif([_shrink(Image.fromarray(f), width / f.shape[1]) for f in frames[::stride]], duration * stride)
        if len(data) <= max_bytes:
            break
    write_bytes(path, data)
    return path


def _timeline(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    t: int,
    total: int,
    scores: Sequence[float],
    asked: set[int],
    pushed: set[int],
) -> None:
    """The episode from left to right: score so far as a curve, queries as ticks below it, perturbations as ticks above."""
    left, top, right, bottom = box

    def at(step: int) -> float:
        return left + (right - left) * step / max(1, total)

    draw.line((left, bottom, right, bottom), FAINT)
    draw.line((left, bottom, at(t), bottom), INK)
    for step in asked:
        if step <= t and step < total:
            draw.line((at(step), bottom - 2, at(step), bottom + 2), BLUE)
    for step in pushed:
        if step < t:
            draw.line((at(step + 1), top, at(step + 1), top + 3), RED)
    curve = [(at(i + 1), bottom - (bottom - top) * min(1.0, max(0.0, s))) for i, s in enumerate(scores[:t])]
    if len(curve) > 1:
        draw.line(curve, GREEN, width=2)


def _gif(pictures: list[Image.Image], duration: int) -> bytes:
    """One palette for all frames (a new one per frame makes flat colours flicker), without dithering (it defeats the compression)."""
    sample = [pictures[i] for i in np.unique(np.linspace(0, len(pictures) - 1, 9).astype(int))]
    width, height = sample[0].size
    montage = Image.new("RGB", (width, height * len(sample)))
    for i, picture in enumerate(sample):
        montage.paste(picture, (0, i * height))
    palette = montage.quantize(96, method=Image.Quantize.MEDIANCUT)
    reduced = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    reduced[0].save(buffer, "GIF", save_all=True, append_images=reduced[1:], duration=duration, loop=0, optimize=False)
    return buffer.getvalue()


def _shrink(picture: Image.Image, scale: float) -> Image.Image:
    if scale >= 1:
        return picture
    return picture.resize((round(picture.width * scale), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS)


def _check(frames: Sequence[Frame]) -> None:
    if not len(frames):
        raise LWDError("there are no frames to write: record some, for instance with --video 1")
    for i, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != frames[0].shape:
            raise LWDError(f"frame {i} is {frame.dtype} of shape {frame.shape}: all must be uint8 (H, W, 3) of the first one's shape")
