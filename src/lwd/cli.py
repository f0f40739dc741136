"""The command line: verbs as dataclasses (tyro makes the parser and the manual from them)."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import CascadeSubcommandArgs, OmitSubcommandPrefixes, Positional, arg, subcommand

from lwd.collecting import DataCollect
from lwd.config import Config, Sampler, Source
from lwd.decoded import Decode
from lwd.errors import LWDError
from lwd.presets import PRESETS
from lwd.studies.base import Words
from lwd.studies.compute import Compute
from lwd.studies.cost import Cost
from lwd.studies.decoder import Decoder
from lwd.studies.denoiser import Denoiser
from lwd.studies.horizon import Horizon
from lwd.studies.hypernetwork import Hypernetwork
from lwd.studies.kl import Kl
from lwd.studies.latent import Latent
from lwd.studies.multitask import Multitask
from lwd.studies.snippets import Snippets
from lwd.studies.steps import Steps
from lwd.studies.worldmodel import WorldModel


@dataclass
class DataList:
    """List the data sets that are shipped, and the formats that can be read."""

    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from lwd.data.show import available

        sets = available()
        if self.json:
            print(json.dumps(sets, indent=1))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(*sets[0], caption="read by path: Diffusion-Policy zarr, .npz, LeRobot directories; by name: LeRobot sets of the Hub")
        for item in sets:
            table.add_row(*(str(value) for value in item.values()))
        Console().print(table)


@dataclass
class DataShow:
    """Print episodes, steps, dimensions, ranges, lengths and tags of a data set."""

    path: Positional[str]
    """A path, "embedded", or a Hub id "owner/name"."""
    download: bool = False
    """Allow a Hub id to be downloaded."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from rich.console import Console

        from lwd.data.readers import read
        from lwd.data.show import describe, render

        description = describe(read(self.path, download=self.download))
        if self.json:
            print(json.dumps(description, indent=1))
        else:
            Console().print(render(description))


@dataclass
class DataConvert:
    """Convert a data set to .npz or to a Diffusion-Policy zarr directory (by the name of the destination)."""

    src: Positional[str]
    """What to read: a path, "embedded", or a Hub id."""
    dst: Positional[str]
    """What to write: a name that ends in .npz or .zarr."""
    download: bool = False
    """Allow a Hub id to be downloaded."""

    def __call__(self) -> None:
        from lwd.data.readers import read
        from lwd.data.show import convert

        episodes = read(self.src, download=self.download)
        convert(episodes, self.dst)
        print(f"{self.dst}: {len(episodes)} episodes, {episodes.steps} steps")


@dataclass
class Data:
    """Demonstrations: list, show, convert, collect."""

    action: (
        Annotated[DataList, subcommand("list")]
        | Annotated[DataShow, subcommand("show")]
        | Annotated[DataConvert, subcommand("convert")]
        | Annotated[DataCollect, subcommand("collect")]
    )

    def __call__(self) -> None:
        self.action()


_PRESETS = tuple(
    Annotated[Config, subcommand(name, default=config, description=f"Preset {name}: {text}.")] for name, (text, config) in PRESETS.items()
)
Preset: Any = Union[_PRESETS]  # noqa: UP007 - built at run time, one subcommand per preset


@dataclass
class Train:
    """Train a method, all its stages, from a preset; the same command again resumes."""

    config: Annotated[Preset, arg(name="")]
    fresh: bool = False
    """Start over, whatever the run directory holds."""
    quiet: bool = False
    """No progress bars."""

    def __call__(self) -> None:
        from lwd.train import train

        run = train(self.config, fresh=self.fresh, quiet=self.quiet)
        print(f"{run.path}  (next: lwd eval {run.path}, or lwd diagnose {run.path})")


@dataclass
class Eval:
    """Run the trained model in its simulator; print scores with intervals and write eval/<name>.json."""

    run: Positional[str]
    """Run directory."""
    horizon: int | None = None
    """Steps between queries; that of training by default."""
    perturbation: float = 0.0
    """Magnitude of the perturbation: PushT, pixels by which the block is displaced at random, with probability 0.1 a step; Metaworld,
    standard deviation of noise on the executed actions."""
    tasks: Words = ()
    """Tasks to run, for a model of several; all that it knows by default."""
    episodes: int | None = None
    """Number of episodes; 50 by default, for a model of several tasks 16 of each."""
    seed_start: int = 100_000
    """Environment seed of the first episode; the others follow."""
    sampler: Sampler | None = None
    """ddpm, ddim or dpm++ (euler for flow matching); that of training by default."""
    steps: int | None = None
    """Denoising steps of a query."""
    warm_start: float | None = None
    """A query that follows another starts from the previous latent with this fraction of the schedule's noise, and takes as many of the
    steps; 0 starts from pure noise."""
    latent: Source | None = None
    """Where a method with a latent takes it from: model (as trained), gaussian (a fit of the encoded data), prior (N(0, I))."""
    video: int = 0
    """Write videos of this many episodes."""
    workers: int | None = None
    """Simulator processes; one per core by default."""
    device: str = "cpu"
    """Where the model computes."""
    name: str = ""
    """Name of the result; made from the settings by default."""
    json: bool = False
    """Print the result as JSON, without the episodes."""

    def __call__(self) -> None:
        from lwd.verbs import evaluate_run

        evaluate_run(self)


@dataclass
class Diagnose:
    """Find the link that breaks: measure every link of the chain on held-out data, with a verdict each; writes diagnose.json."""

    run: Positional[str]
    """Run directory."""
    samples: int = 512
    """Held-out snippets that are measured; fewer where a query is dear (the paper's preset on a CPU)."""
    rollouts: int = 32
    """Held-out starts for the rung that needs the simulator; 0 leaves it out."""
    device: str = "cpu"
    """Where the model computes."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from rich.console import Console

        from lwd.diagnose import diagnose, render
        from lwd.run import Run, write_json

        result = diagnose(Run(self.run), rollouts=self.rollouts, samples=self.samples, device=self.device)
        write_json(Path(self.run) / "diagnose.json", result)
        if self.json:
            print(json.dumps(result, indent=1))
        else:
            Console().print(render(result))


@dataclass
class Info:
    """Print settings, data fingerprint, parameter counts, what is trained, and the best results of a run."""

    run: Positional[str]
    """Run directory."""
    json: bool = False
    """Print JSON."""

    def __call__(self) -> None:
        from lwd.verbs import info, render_info

        result = info(self.run)
        print(json.dumps(result, indent=1) if self.json else render_info(result))


@dataclass
class Demo:
    """The main job in one command: train on the shipped demonstrations, evaluate, write a report with video."""

    out: str = "runs/demo"
    """Run directory."""
    data: str = "embedded"
    """Demonstrations."""
    episodes: int = 50
    """Episodes of each evaluation."""
    preset: Literal["demo", "pusht", "debug"] = "demo"
    """Recipe."""
    fresh: bool = False
    """Start over."""

    def __call__(self) -> None:
        from lwd.demo import demo

        config = replace(PRESETS[self.preset][1], out=self.out, data=self.data)
        path = demo(config, episodes=self.episodes, fresh=self.fresh)
        print(f"\nReport: {path}")


@dataclass
class Study:
    """A question to several methods or variants: trains and evaluates what is missing, and writes JSON, tables and figures."""

    study: (
        Annotated[Horizon, subcommand("horizon")]
        | Annotated[Compute, subcommand("compute")]
        | Annotated[Snippets, subcommand("snippets")]
        | Annotated[Decoder, subcommand("decoder")]
        | Annotated[Kl, subcommand("kl")]
        | Annotated[Denoiser, subcommand("denoiser")]
        | Annotated[WorldModel, subcommand("worldmodel")]
        | Annotated[Latent, subcommand("latent")]
        | Annotated[Hypernetwork, subcommand("hypernetwork")]
        | Annotated[Steps, subcommand("steps")]
        | Annotated[Cost, subcommand("cost")]
        | Annotated[Multitask, subcommand("multitask")]
    )

    def __call__(self) -> None:
        self.study()


Verb = (
    Annotated[Data, subcommand("data")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Eval, subcommand("eval")]
    | Annotated[Study, subcommand("study")]
    | Annotated[Diagnose, subcommand("diagnose")]
    | Annotated[Decode, subcommand("decode")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Demo, subcommand("demo")]
)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 done, 2 bad input, 130 interrupted, 141 whoever read the output has closed it)."""
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `lwd ... | head`: nobody is left to be told (those of workers are answered where they arise)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _main(arguments: list[str] | None) -> int:
    """One verb."""
    try:
        verb: Any = tyro.cli(
            Verb,
            prog="lwd",
            description="Latent Weight Diffusion: train a generator of small closed-loop policies, evaluate it, look inside.",
            args=arguments,
            config=(OmitSubcommandPrefixes, CascadeSubcommandArgs),
        )
        verb()
    except LWDError as error:
        print(f"lwd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "the same command continues a training, a study or a Metaworld collection, and starts anything else anew"
        print(f"lwd: interrupted; {again}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
