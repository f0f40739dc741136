"""`lwd study compute`: success against FLOPs of an environment step on Metaworld (sections 4.1.2 and J.1; Figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple
from zlib import crc32

from lwd.config import Config, DiffusionPolicyConfig, MLPConfig, Size, Stage, require, to_dict
from lwd.presets import PAPER, PRESETS
from lwd.studies.ablation import check_names, option_words, short
from lwd.studies.base import Cell, Floats, Ints, Words
from lwd.studies.metaworld import EPISODE, MetaworldStudy, task_table
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

SIZES: tuple[Size, ...] = ("xs", "s", "m", "l", "xl")  # of the U-Net, Table 3
CHUNKS = (32, 128)  # section 4.1.2
WIDTHS = (128, 256, 512)  # of the policies, likewise
SMALL = (64, 128)  # of policies whose latents a small network denoises
OFTEN = (4, 8)  # steps between queries of a DP that is asked more often than at half its chunk


class Arm(NamedTuple):
    """How a model is trained and asked.

    Args:
        method: a key of `lwd.studies.compute_tables.METHODS`.
        preset: of `lwd train`.
        words: more options of it.
        horizon: steps between queries in evaluations.
        size: written at its point in the figure.
        on: another model, whose training this one takes over.
    """

    method: str
    preset: str
    words: tuple[str, ...]
    horizon: int
    size: str
    on: str = ""


class Recipe(NamedTuple):
    """Models by name, and those that are run by default."""

    arms: dict[str, Arm]
    models: tuple[str, ...]
    tasks: tuple[str, ...] = ()


def both(width: int) -> tuple[str, ...]:
    """Two hidden layers."""
    return ("--method.policy", str(width), str(width))


def words_of(preset: str, method: Any) -> tuple[str, ...]:
    """Options that give a preset another method's settings."""
    own: Config = PRESETS[preset][1]
    return option_words(to_dict(replace(own, method=method)), to_dict(own))


def cpu() -> Recipe:
    """The presets; U-Nets at batches and steps that a CPU can do."""
    unet = ("--method.denoiser", "unet", "--method.diffusion.steps", "3000", "--method.diffusion.batch", "64")
    arms = {f"lwd-{w}": Arm("lwd", "metaworld", both(w), EPISODE, str(w)) for w in WIDTHS}
    small = ("--method.denoiser-width", "128")
    arms |= {f"lwd-fast-{w}": Arm("lwd", "metaworld", (*both(w), *small), EPISODE, f"fast {w}") for w in SMALL}
    for chunk in CHUNKS:
        own = ("--horizon", str(chunk))
        for s in SIZES:
            arms[f"dp-{s}-{chunk}"] = Arm("dp", "metaworld-dp", (*own, *unet, "--method.unet-size", s), chunk // 2, f"{s}, {chunk}")
        mlp = f"dp-mlp-{chunk}"
        arms[mlp] = Arm("dp-mlp", "metaworld-dp", own, chunk // 2, str(chunk))
        if chunk == min(CHUNKS):
            arms |= {f"{mlp}-every-{n}": arms[mlp]._replace(horizon=n, size=f"{chunk}, every {n}", on=mlp) for n in OFTEN}
    arms.update({f"mlp-{w}": Arm("mlp", "metaworld-mlp", both(w), EPISODE, str(w)) for w in WIDTHS})
    more = {f"dp-{s}-{chunk}" for s in ("l", "xl") for chunk in CHUNKS} | {"dp-m-128"} | {f"lwd-fast-{w}" for w in SMALL}
    return Recipe(arms, tuple(name for name in arms if name not in more))


def paper() -> Recipe:
    """Tables 3, 6 and 9. The paper does not say how long Diffusion Policy and MLP were trained: 200,000 steps of 256 windows are ten
    passes over 10,000 demonstrations."""
    epochs = 31_300  # gradient steps: 100 epochs of 10,000 demonstrations in batches of 32
    lwd = replace(
        PAPER,
        autoencoder=replace(PAPER.autoencoder, steps=epochs),
        diffusion=replace(PAPER.diffusion, steps=epochs),
        decoder="xs",
        beta=1e-6,
        unet_size="m",
        world_model=False,
    )
    stage = Stage(steps=200_000, batch=256, lr=1e-4, warmup=500)
    dp = DiffusionPolicyConfig(
        diffusion=stage, history=2, denoiser="unet", prediction="epsilon", sampler="ddpm", sampler_steps=100
    )  # of the training script that J.1 names
    arms = {f"lwd-{w}": Arm("lwd", "metaworld", words_of("metaworld", replace(lwd, policy=(w, w))), EPISODE, str(w)) for w in WIDTHS}
    for chunk in CHUNKS:
        for s in SIZES:
            words = ("--horizon", str(chunk), *words_of("metaworld-dp", replace(dp, unet_size=s)))
            arms[f"dp-{s}-{chunk}"] = Arm("dp", "metaworld-dp", words, chunk // 2, f"{s}, {chunk}")
    for w in WIDTHS:
        mlp = MLPConfig(cloning=stage, policy=(w, w), policy_noise=0.0)
        arms[f"mlp-{w}"] = Arm("mlp", "metaworld-mlp", words_of("metaworld-mlp", mlp), EPISODE, str(w))
    return Recipe(arms, tuple(arms))


def debug() -> Recipe:
    """One small model of each method, next to untrained, on two tasks."""
    few = ("--method.sampler-steps", "2")
    small = ("--method.latent", "8", "--method.encoder", "32", "--method.stride", "50", "--method.bc-steps", "16")
    dp = ("--horizon", "32", *short("diffusion"), *few)
    arms = {
        "lwd-16": Arm("lwd", "metaworld", (*both(16), *short("autoencoder", "diffusion"), *few, *small), EPISODE, "16"),
        "dp-xs-32": Arm("dp", "metaworld-dp", (*dp, "--method.denoiser", "unet", "--method.unet-size", "xs"), 16, "xs, 32"),
        "dp-mlp-32": Arm("dp-mlp", "metaworld-dp", (*dp, "--method.denoiser-width", "32"), 16, "32"),
        "mlp-16": Arm("mlp", "metaworld-mlp", (*both(16), *short("cloning")), EPISODE, "16"),
    }
    return Recipe(arms, tuple(arms), ("reach", "door-open"))


RECIPES = {"cpu": cpu, "paper": paper, "debug": debug}


@dataclass
class Compute(MetaworldStudy):
    """Success on ten tasks of Metaworld against the FLOPs of an environment step (Figure 6).

    LWD generates one policy for the whole episode; Diffusion Policy (DP) denoises chunks of 32 or 128 actions, of which it executes half
    (or the first 4 or 8); the MLP is one policy for everything. FLOPs are counted: matrix products and convolutions of a query, spread over
    the steps until the next one, and of the control step.
    """

    name: ClassVar[str] = "compute"

    preset: Literal["cpu", "paper", "debug"] = "cpu"
    """cpu: presets metaworld, metaworld-dp, metaworld-mlp, and U-Nets of 3,000 steps of 64 windows (m only for chunks of 32); about three
    hours on two cores; paper: the paper's recipes and all sizes, for GPUs (its cost is measured and printed first); debug: seconds."""
    models: Words = ()
    """Such as lwd-256, dp-s-32 (U-Net size and chunk), dp-mlp-32, mlp-256; the preset's by default. cpu also knows larger U-Nets, and
    lwd-fast-64 and lwd-fast-128: a denoiser 128 wide instead of 512, meant for --steps 2."""
    tasks: Words = ()
    """Tasks that are evaluated; all that the data has by default (debug: reach, door-open). Training takes all."""
    perturbations: Floats = (0.0,)
    """Standard deviations of noise on the executed actions."""
    steps: Ints = ()
    """Denoising steps of a query, such as 2,16: every LWD and DP is evaluated with each; its own by default (cpu: 16)."""

    @property
    def recipe(self) -> Recipe:
        """Arms and models of the preset, with what the options change."""
        from lwd.envs.base import family

        own = RECIPES[self.preset]()
        tasks = family("metaworld").task_names(self.tasks or own.tasks)
        return Recipe({name: own.arms[name] for name in self.models or own.models}, self.models or own.models, tuple(tasks))

    @property
    def costly(self) -> bool:
        return self.preset == "paper"

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed, so that a study that was cut off has whole comparisons."""
        if self.models:
            check_names("models", self.models, tuple(RECIPES[self.preset]().arms))
        require(len(self.perturbations) > 0, "--perturbations is empty")
        require(
            len(set(self.perturbations)) == len(self.perturbations) and min(self.perturbations) >= 0,
            "--perturbations are standard deviations of noise: none negative, none twice, not "
            + ", ".join(f"{value:g}" for value in self.perturbations),
        )
        require(
            len(set(self.steps)) == len(self.steps) and min(self.steps, default=1) >= 1,
            "--steps are denoising steps of a query: at least 1, none twice, not " + ", ".join(str(value) for value in self.steps),
        )
        recipe = self.recipe
        words: tuple[str, ...] = ("--tasks", ",".join(recipe.tasks)) if recipe.tasks else ()
        label = "+".join(recipe.tasks)
        if len(recipe.tasks) > 3:
            label = f"{len(recipe.tasks)}tasks-{crc32(' '.join(recipe.tasks).encode()):08x}"
        tasks: list[Task] = []
        cells: list[Cell] = []
        for seed in range(self.seeds):
            for name, arm in recipe.arms.items():
                trained = arm.on or name
                training = self.training(f"{trained}-s{seed}", arm.preset, seed, (*self.data_words(), *arm.words), trained)
                if training not in tasks:
                    tasks.append(training)
                for steps in (0,) if arm.method == "mlp" else self.steps or (0,):
                    more = (*words, "--steps", str(steps)) if steps else words
                    how = "-".join(part for part in (label, f"steps{steps}" if steps else "") if part)
                    for perturbation in self.perturbations:
                        task = self.evaluation(training, horizon=arm.horizon, perturbation=perturbation, words=more, label=how)
                        tasks.append(task)
                        labels = {"method": arm.method, "model": name, "steps": steps, "size": arm.size, "perturbation": perturbation}
                        cells.append(Cell(labels, seed, task))
        return tasks, cells

    def settings(self) -> dict[str, Any]:
        recipe = self.recipe
        arms = {name: arm._asdict() for name, arm in recipe.arms.items()}
        return {**super().settings(), "models": list(recipe.models), "tasks": list(recipe.tasks), "arms": arms}

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        from lwd.studies.compute_tables import comparisons

        return {"comparisons": comparisons(result)}

    def intro(self, result: dict[str, Any]) -> str:
        from lwd.studies.compute_tables import sentence

        tasks = len({record["task"] for cell in result["cells"] for record in cell["records"]})
        seeds = len({cell["seed"] for cell in result["cells"]})
        first = (
            f"{result['score'].replace('_', ' ')} over {tasks} task{'s' * (tasks > 1)} of Metaworld, {self.episodes} episodes of each, of "
            f"{seeds} training seed{'s' * (seeds > 1)}; every task counts the same. Brackets: 95 % intervals over the episodes of these "
            "trainings, resampled within each task of each training seed."
            + (" In round brackets: denoising steps of a query." * bool(self.steps))
        )
        return "\n\n".join([first, *(sentence(row) for row in result["comparisons"])])

    def tables(self, result: dict[str, Any]) -> list[Table]:
        from lwd.studies.compute_tables import label, model_table

        tables = []
        for perturbation in sorted({entry["perturbation"] for entry in result["pooled"]}):
            own = [entry for entry in result["pooled"] if entry["perturbation"] == perturbation]
            end = f", noise {perturbation:g}" if perturbation else ""
            tables.append(model_table(own, result["score"], f"models{end}"))
            if any("tasks" in entry for entry in own):
                tables.append(task_table(own, [label(entry) for entry in own], result["score"], f"tasks{end}", tasks_across=True))
        return tables

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies.compute_tables import METHODS
        from lwd.studies.figures import flops_against_score

        path = flops_against_score(
            [{**entry, "method": METHODS[entry["method"]]} for entry in result["pooled"]],
            self.directory / "figure6.png",
            mark="size",
            line="method",
            join="model",
            panel="perturbation",
            score=result["score"],
            panel_title="action noise {:g}",
        )
        joined = "; a line joins what one model does with different numbers of denoising steps" if self.steps else ""
        caption = (
            "At the points: width of the policy (LWD, MLP), size of the U-Net and length of the chunk (DP), of which half is executed "
            f"where nothing else is said{joined}. Bars: 95 % intervals over episodes. FLOPs are counted, a batch of one; upper left is "
            "better."
        )
        return [Picture(path, "Success against compute (Figure 6)", caption, wide=True)]
