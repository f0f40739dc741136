"""Videos of episodes: captions under the frames, and GIFs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lwd.files import write_bytes

Frame = NDArray[np.uint8]  # (H, W, 3) RGB

MAX_BYTES = 2_000_000  # of a GIF: small enough for a README and for an inline report
GIF_FPS = 25  # of a GIF at most, about
SIZE = 192  # pixels, longer side of a GIF's picture
HOLD = 3  # frames that a mark stays lit: one alone is too short to see
PAPER, INK, FAINT, BLUE, RED, GREEN = "#FFFFFF", "#222222", "#C9CED6", "#0072B2", "#D55E00", "#009E73"  # Okabe and Ito


def annotate(
    frames: Sequence[Frame], *, scores: Sequence[float] = (), queries: Sequence[int] = (), displaced: Sequence[int] = ()
) -> list[Frame]:
    """Frames with a caption below: step, score, marks, and the score's curve so far.

    Nothing is drawn over the picture, only a frame around it in steps with a perturbation. Large pictures are shrunk to `SIZE`.

    Args:
        frames: T + 1 pictures (H, W, 3) uint8, from the start to the last step.
        scores: T scores, in [0, 1]; entry t is reached by step t + 1; empty for no curve.
        queries: steps at which a new policy was generated (0 for the first).
        displaced: steps, counted from 0, during which something pushed the block.
    """
    total, captioned = len(frames) - 1, []
    for t, frame in enumerate(frames):
        picture = _shrink(frame, SIZE / max(frame.shape))
        width, height = picture.size
        unit = max(10, width // 16)  # height of a line of text, pixels
        canvas = Image.new("RGB", (width, height + 3 * unit), PAPER)
        canvas.paste(picture, (0, 0))
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=0.8 * unit)
        # the step shown by frame t was taken from t - 1: its perturbation is visible now; a policy asked at t acts from now on
        disturbed = any(t - 1 - k in displaced for k in range(HOLD))
        asked = any(t - k in queries for k in range(HOLD))
        if disturbed:
            draw.rectangle((0, 0, width - 1, height - 1), outline=RED, width=max(2, width // 96))
        text = f"step {t}/{total}" + (f"    score  {scores[t - 1]:.2f}" if scores and t else "")
        draw.text((unit // 2, height + unit // 2), text, INK, font=font, anchor="lt")
        mark, colour = ("pushed", RED) if disturbed else ("new policy", BLUE) if asked else ("", INK)
        draw.text((width - unit // 2, height + unit // 2), mark, colour, font=font, anchor="rt")
        # the episode from left to right: score so far as a curve, queries as ticks below it, perturbations as ticks above
        top, bottom = height + 1.6 * unit, height + 2.7 * unit
        x = np.linspace(unit // 2, width - unit // 2, total + 1).tolist()
        draw.line((x[0], bottom, x[-1], bottom), FAINT)
        draw.line((x[0], bottom, x[t], bottom), INK)
        for step in [step for step in queries if step <= t]:
            draw.line((x[step], bottom - 2, x[step], bottom + 2), BLUE)
        for step in [step for step in displaced if step < t]:
            draw.line((x[step + 1], top, x[step + 1], top + 3), RED)
        heights = bottom - (bottom - top) * np.clip(scores[:t], 0, 1)
        draw.line(list(zip(x[1:], heights.tolist(), strict=False)), GREEN, width=2)
        captioned.append(np.asarray(canvas, np.uint8))
    return captioned


def save_gif(frames: Sequence[Frame], path: Path, fps: float, *, size: int = SIZE) -> Path:
    """Writes pictures (H, W, 3) uint8, all of one size, as an endless GIF of 96 colours. Returns its path, whose suffix becomes `.gif`.

    It is at most `size` pixels wide; it is made smaller, and loses frames, until it fits into `MAX_BYTES`. GIF counts hundredths of a
    second, so 30 frames per second become 33. Of a faster recording about 25 per second are kept, and the last one.
    """
    path = path.with_suffix(".gif")
    thinning = max(1, round(fps / GIF_FPS))
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
    write_bytes(path, buffer.getvalue())
    return path


def _shrink(frame: Frame, scale: float) -> Image.Image:
    picture = Image.fromarray(frame)
    if scale >= 1:
        return picture
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
