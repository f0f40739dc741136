"""From a path to `Episodes`. Each format is one file in `lwd.data.formats`; nothing else in the library knows a file format."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from lwd.config import require
from lwd.data.embedded import SETS, embedded_path
from lwd.data.formats import d4rl, diffusion_policy, lerobot, minari, npz, robomimic
from lwd.envs.base import families
from lwd.episodes import Episodes
from lwd.errors import LWDError

FORMATS = (
    diffusion_policy,
    lerobot,
    npz,
    minari,
    d4rl,
    robomimic,
)  # in the order in which they are asked; each has matches(path) and read(path); read(path, obs_keys) where observations have keys
EXPECTED = (
    "expected an .npz file or a directory of them, a Diffusion-Policy zarr directory (or .zarr.zip), "
    "a LeRobot directory (with meta/info.json), a Minari directory (with data/metadata.json), an HDF5 file of robomimic or D4RL, "
    'a Hub id "owner/name", "minari:ID", or "embedded"'
)


def read(path_or_id: str | Path, *, download: bool = False, obs_keys: Sequence[str] = ()) -> Episodes:
    """Demonstrations from a file or directory, "embedded" (what ships with the package), the id "owner/name" of a set of the Hub, or
    "minari:ID" of a set in Minari's root directory.

    The format is recognised by content, not by name. `download` allows an id to be downloaded (of the Hub without videos).
    `obs_keys` chooses among the observations of a format that keeps them under names, in the order in which they are joined.
    """
    text, path = str(path_or_id), Path(path_or_id).expanduser()
    kind, _, name = text.partition(":")
    if kind == "embedded":
        name = name or next(iter(SETS))
        require(name in SETS, f"{text}: no such embedded data set; there is {', '.join(f'embedded:{known}' for known in SETS)}")
        return _read_as(npz, text, embedded_path(name), obs_keys)
    if kind == "minari":
        if not (place := minari.place(name)).is_dir():
            require(download, f"{text}: there is no {place}; add --download to fetch the data set, or set MINARI_DATASETS_PATH")
            minari.fetch(name)
        return _read_as(minari, text, place, obs_keys)
    if path.exists():
        for form in FORMATS:
            if form.matches(path):
                return _read_as(form, text, path, obs_keys)
        raise LWDError(f"{text}: not a known data format; {EXPECTED}{f'. {npz.LAYOUT}' if path.is_file() else ''}")
    collected = re.fullmatch(r"data/(\w+)(?:-([\w-]+))?", text)  # where `lwd data collect` puts it, and the presets look for it
    if collected and collected[1] in families():
        which = f" --tasks {collected[2]}" * bool(collected[2])
        raise LWDError(f"{text}: no such directory; make it:  lwd data collect {collected[1]}{which}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) or path.suffix in {".npz", ".zarr", ".zip"} or path.parent.exists():
        raise LWDError(f"{text}: no such file or directory")
    require(download, f"{text}: no such file or directory; if it is a data set on the Hugging Face Hub, add --download to fetch it")
    episodes = _read_as(lerobot, text, lerobot.fetch(text), obs_keys)
    # the cache names its directories by hash, which says nothing about the origin
    return replace(episodes, meta=replace(episodes.meta, description=f"LeRobot data set {text}"))


def _read_as(form: ModuleType, text: str, path: Path, obs_keys: Sequence[str]) -> Episodes:
    """Reads, and puts the path as the user wrote it before any complaint that does not mention it."""
    try:
        if not obs_keys:
            return form.read(path)
        named = "obs_keys" in inspect.signature(form.read).parameters
        require(named, f"{text}: this format has one observation, without keys to choose from: leave out --obs-keys")
        return form.read(path, tuple(obs_keys))
    except LWDError as error:
        raise LWDError(str(error) if text in str(error) else f"{text}: {error}") from error
