"""Makes the models that `lwd explore` shows without a run: trains LWD and Diffusion Policy on the embedded demonstrations of PushT, and
puts them into the package at half precision. About half an hour of one core; the same command continues.

    python benchmarks/shipped.py
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import tyro
from safetensors.torch import save_file

from lwd.explore.models import SHIPPED
from lwd.files import read_json, write_json
from lwd.presets import PRESETS
from lwd.training.run import Run
from lwd.training.train import load_method, train

LARGE = 1024  # numbers of a tensor that is halved: scales and means of the normaliser are not
SMALLER = {"lwd": ("pusht-fast", {"decoder": "xs", "encoder": (256, 256)}), "dp": ("pusht-dp", {"denoiser_width": 128})}


def ship(run: Run, folder: Path) -> int:
    """Copies what planning needs of a run: its config and its averaged weights. Returns the bytes."""
    weights = load_method(run).state_dict()
    small = {f"model.{key}": (own.half() if own.numel() >= LARGE else own).contiguous() for key, own in weights.items()}
    shutil.rmtree(folder, ignore_errors=True)
    target = folder / "checkpoints" / "last"
    target.mkdir(parents=True)
    save_file(small, target / "model.safetensors")
    (target / "model.safetensors").chmod(0o644)
    write_json(target / "state.json", run.state())
    write_json(target.parent / "latest.json", {"checkpoint": "last"})
    record = read_json(run.path / "config.json", "is no run")
    record["config"]["out"] = ""
    write_json(folder / "config.json", record)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(runs: Path = Path("runs/shipped")) -> None:
    """Trains in `runs`, and writes into the package."""
    sizes = {}
    for (name, (preset, changes)), folder in zip(SMALLER.items(), SHIPPED, strict=True):
        config = PRESETS[preset][1]
        method = replace(config.method, **changes)
        sizes[name] = ship(train(replace(config, data="embedded", out=str(runs / name), method=method)), folder)
    print(json.dumps(sizes, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
