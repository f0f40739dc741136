"""`lwd study hypernetwork`: is the hypernetwork needed? LWD against the latent diffusion policy with a decoder of equal size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.config import LatentConfig, LWDConfig, require, to_dict
from lwd.presets import PRESETS
from lwd.studies.ablation import BANDS, check_names, check_numbers, cost_table, difference_tables, intro, option_words, score_table, short
from lwd.studies.base import Cell, Floats, Ints, Study, Words
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

METHODS = ("lwd", "ldp, equal size", "ldp, 2 x 256")
NAMES = {"lwd": "lwd", "ldp-equal": "ldp, equal size", "ldp-paper": "ldp, 2 x 256"}  # on the command line, in the result
FEATURES, ACTIONS = 18, 2  # PushT: eight corners of the block and the agent; a target position
PAPER = (256, 256)  # section 4.1.1


class Recipe(NamedTuple):
    """Presets with more options for both, and the default horizons."""

    lwd: str
    ldp: str
    words: tuple[str, ...]
    horizons: tuple[int, ...]


RECIPES = {
    "cpu": Recipe("pusht", "pusht-ldp", ("--method.autoencoder.steps", "5000", "--method.diffusion.steps", "4000"), (16, 32, 128)),
    "debug": Recipe("debug", "pusht-ldp", short("autoencoder", "diffusion"), (8, 16)),
}


@dataclass
class Hypernetwork(Study):
    """Is the hypernetwork needed? LWD against latent diffusion policies (LDP) whose decoder emits actions instead of weights.

    Latent, encoder, latent diffusion, data and gradient steps are the same. One LDP has a decoder with as many parameters as LWD's
    hypernetwork (within 5 %), the other the paper's, two layers of 256. LWD is one model, trained at its preset's horizon; LDP's chunks
    cannot be longer than in training: it is trained anew for each horizon.
    """

    name: ClassVar[str] = "hypernetwork"
    against: ClassVar[tuple[str, Any] | None] = ("method", "lwd")

    preset: Literal["cpu", "debug"] = "cpu"
    """cpu: presets pusht and pusht-ldp with 5,000 and 4,000 gradient steps in place of 10,000 and 8,000; debug: seconds, to see that things
    run."""
    methods: Words = tuple(NAMES)
    """Of lwd, ldp-equal, ldp-paper."""
    horizons: Ints = ()
    """Steps between queries; by default 16,32,128 (cpu), 8,16 (debug)."""
    perturbations: Floats = (0.0, 50.0)
    """The block is displaced by up to so many pixels in a tenth of all steps."""

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed."""
        recipe = RECIPES[self.preset]
        check_names("methods", self.methods, tuple(NAMES))
        horizons = self.horizons or recipe.horizons
        check_numbers(horizons, self.perturbations)
        own = PRESETS[recipe.lwd][1].method
        assert isinstance(own, LWDConfig)
        same = shared_words(own, recipe.ldp)
        tasks: list[Task] = []
        cells: list[Cell] = []
        for seed in range(self.seeds):
            for method in self.methods:
                trainings: dict[int | None, Task] = {}
                for horizon in horizons:
                    key = None if method == "lwd" else horizon
                    if key is None and None not in trainings:
                        trainings[None] = self.training(f"lwd-s{seed}", recipe.lwd, seed, recipe.words, method)
                        tasks.append(trainings[None])
                    elif key is not None:
                        hidden = equal_hidden(own, horizon) if method == "ldp-equal" else PAPER
                        words = ("--horizon", str(horizon), *same, *recipe.words, "--method.decoder", *map(str, hidden))
                        trainings[key] = self.training(f"{method}-h{horizon}-s{seed}", recipe.ldp, seed, words, method)
                        tasks.append(trainings[key])
                    for perturbation in self.perturbations:
                        task = self.evaluation(trainings[key], horizon=horizon, perturbation=perturbation)
                        tasks.append(task)
                        cells.append(Cell({"method": NAMES[method], "horizon": horizon, "perturbation": perturbation}, seed, task))
        return tasks, cells

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "horizons": list(self.horizons or RECIPES[self.preset].horizons)}

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        own = PRESETS[RECIPES[self.preset].lwd][1].method
        assert isinstance(own, LWDConfig)
        sizes = []
        for horizon in sorted({entry["horizon"] for entry in result["pooled"]}):
            hidden = equal_hidden(own, horizon)
            equal, paper = (mlp_parameters([own.latent, *h, horizon * ACTIONS]) for h in (hidden, PAPER))
            counts = {"lwd": hypernetwork_parameters(own), "ldp, equal size": equal, "ldp, 2 x 256": paper}
            sizes.append({"horizon": horizon, "hidden": list(hidden), "decoder_parameters": counts})
        return {"sizes": sizes}

    def intro(self, result: dict[str, Any]) -> str:
        return intro(result) + " The three share architecture of the encoder, latent diffusion, data and gradient steps."

    def tables(self, result: dict[str, Any]) -> list[Table]:
        from lwd.report import Table

        form, rows = "{:g} px, {} steps", ("perturbation", "horizon")
        sizes = [
            [f"{s['horizon']} steps", " x ".join(map(str, s["hidden"])), *(f"{s['decoder_parameters'][m] / 1e6:.3f}" for m in METHODS)]
            for s in result["sizes"]
        ]
        columns = ["horizon", "hidden layers at equal size", *METHODS]
        return [
            score_table(result, rows, form, "method"),
            *difference_tables(result, rows, form, "method"),
            Table("parameters of the decoder, in millions", columns, sizes, "Encoder and denoiser come on top, and are the same."),
            cost_table(result, "method"),
        ]

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.figures import lines_with_bands

        path = lines_with_bands(
            result["pooled"],
            self.directory / "hypernetwork.png",
            x="horizon",
            line="method",
            panel="perturbation",
            score=result["score"],
            xlabel="action horizon (steps between queries)",
            panel_title="perturbation {:g} px",
        )
        return [Picture(path, "Weights of a policy, or actions", BANDS)]


def shared_words(own: LWDConfig, preset: str) -> tuple[str, ...]:
    """Options that give a preset of LDP the settings that it shares with a config of LWD: latent, encoder, beta, diffusion, lengths."""
    names = [field.name for field in fields(LatentConfig)]
    mine, theirs = to_dict(own), to_dict(PRESETS[preset][1].method)
    return option_words({name: mine[name] for name in names}, theirs, "method.")


def mlp_parameters(sizes: Sequence[int]) -> int:
    """Weights and biases of `lwd.nn.mlp` with these sizes, input and output included."""
    return sum(a * b + b for a, b in pairwise(sizes))


def hypernetwork_parameters(config: LWDConfig) -> int:
    """Of the decoder that emits PushT policies from key points."""
    from lwd.nn.hypernetwork import SIZES

    weights = mlp_parameters([FEATURES, *config.policy, ACTIONS])
    return mlp_parameters([config.latent, *SIZES[config.decoder], weights])


def equal_hidden(config: LWDConfig, horizon: int) -> tuple[int, int]:
    """Two equal hidden layers of an LDP decoder with as many parameters as LWD's hypernetwork.

    Raises:
        LWDError: not within 5 %, as the chunk alone is too large.
    """
    target, outputs = hypernetwork_parameters(config), horizon * ACTIONS
    linear = config.latent + 2 + outputs  # h^2 + linear * h + outputs = target
    width = max(1, round((sqrt(linear**2 + 4 * max(0, target - outputs)) - linear) / 2))
    count = mlp_parameters([config.latent, width, width, outputs])
    require(
        abs(count - target) <= 0.05 * target,
        f"no decoder of equal size for chunks of {horizon} steps ({count:,} parameters against {target:,}): leave out --horizons {horizon}",
    )
    return width, width
