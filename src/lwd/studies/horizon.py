"""`lwd study horizon`: action horizon times perturbation, LWD against the baselines (section 4.1.1, appendix I; Figures 3, 4, 20)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lwd.config import require
from lwd.studies.ablation import check_names, short
from lwd.studies.base import Cell, Floats, Ints, Study, Words
from lwd.studies.tasks import Task

if TYPE_CHECKING:
    from lwd.report import Picture, Table

OURS = ("lwd", "lwd-fast")
MARGIN = 0.05  # how far below DP's best score LWD may fall in the comparison of costs
FILM_PERTURBATION = 50.0  # pixels, Figure 4


class Arm(NamedTuple):
    """How a method is trained in a preset.

    Args:
        preset: of `lwd train`.
        per_horizon: one model per horizon, trained at it; otherwise one model, trained at its preset's own horizon, serves all.
        words: more options of `lwd train`.
        trained: whether anything is; otherwise all training seeds would be the same, and only the first is run.
        on: method whose first stage it takes over, if that is in the study too.
    """

    preset: str
    per_horizon: bool
    words: tuple[str, ...] = ()
    trained: bool = True
    on: str = ""


class Recipe(NamedTuple):
    """Arms and default grid of a preset."""

    arms: dict[str, Arm]
    horizons: tuple[int, ...]
    perturbations: tuple[float, ...]


RECIPES = {
    "cpu": Recipe(
        {
            "lwd": Arm("pusht", False),
            "lwd-fast": Arm("pusht-fast", False, on="lwd"),
            "dp": Arm("pusht-dp", True),
            "ldp": Arm("pusht-ldp", True),
            "mlp": Arm("pusht-mlp", False),
            "random": Arm("pusht-random", False, trained=False),
        },
        (16, 32, 128),
        (0.0, 25.0, 50.0),
    ),
    "paper": Recipe(
        {
            "lwd": Arm("paper/pusht", True),
            "dp": Arm("paper/pusht-dp", True),
            "ldp": Arm("paper/pusht-ldp", True),
            "mlp": Arm("paper/pusht-mlp", False),
            "random": Arm("pusht-random", False, trained=False),
        },
        (16, 32, 64, 128),
        (0.0, 10.0, 25.0, 50.0, 100.0),
    ),
    "debug": Recipe(
        {
            "lwd": Arm("debug", False, short("autoencoder", "diffusion")),
            "lwd-fast": Arm("debug", False, (*short("autoencoder", "diffusion"), "--method.sampler-steps", "2"), on="lwd"),
            "dp": Arm("pusht-dp", True, short("diffusion")),
            "ldp": Arm("pusht-ldp", True, short("autoencoder", "diffusion")),
            "mlp": Arm("pusht-mlp", False, short("cloning")),
            "random": Arm("pusht-random", False, trained=False),
        },
        (8, 16),
        (0.0, 50.0),
    ),
}


@dataclass
class Horizon(Study):
    """Action horizon and perturbation on PushT: LWD against the baselines (Figures 3, 4 and 20).

    Trains what is missing, evaluates the grid, resumes where it was stopped or killed, and writes horizon.json (every episode), horizon.md
    and figures into the study's directory. Every method sees the same environments with the same perturbations.
    """

    name: ClassVar[str] = "horizon"
    against: ClassVar[tuple[str, Any] | None] = ("method", "lwd")

    preset: Literal["cpu", "paper", "debug"] = "cpu"
    """cpu: the recipes that measured best here, a smaller grid; paper: the paper's recipes and grid, for GPUs (its cost is measured and
    printed first); debug: seconds, to see that things run. In cpu, LWD, MLP and random are one model each for all horizons, DP and LDP
    are trained anew for each."""
    methods: Words = ()
    """Of lwd, lwd-fast (LWD with a narrow denoiser and two steps, on the autoencoder of lwd; not in paper), dp (Diffusion Policy), ldp
    (latent diffusion policy), mlp, random. By default all of them."""
    horizons: Ints = ()
    """Steps between queries; of chunks, all steps are executed. By default 16,32,128 (cpu), 16,32,64,128 (paper), 8,16 (debug)."""
    perturbations: Floats = ()
    """The block is displaced by up to so many pixels in a tenth of all steps. By default 0,25,50 (cpu), 0,10,25,50,100 (paper), 0,50
    (debug)."""

    @property
    def recipe(self) -> Recipe:
        """Arms and grid, with what the options change."""
        chosen = RECIPES[self.preset]
        arms = {method: chosen.arms[method] for method in self.methods or chosen.arms}
        return Recipe(arms, self.horizons or chosen.horizons, self.perturbations or chosen.perturbations)

    @property
    def costly(self) -> bool:
        return self.preset == "paper"

    def grid(self) -> tuple[list[Task], list[Cell]]:
        """Seed by seed, so that a study that was cut off has whole comparisons."""
        known = RECIPES[self.preset].arms
        check_names("methods", self.methods or tuple(known), tuple(known))
        arms, horizons, perturbations = self.recipe
        for option, values in (("horizons", horizons), ("perturbations", perturbations)):
            require(len(set(values)) == len(values), f"--{option} names something twice: {', '.join(map(str, values))}")
        require(min(horizons) >= 1, f"--horizons counts steps: at least 1, not {min(horizons)}")
        require(
            min(perturbations) >= 0,
            f"--perturbations are magnitudes in pixels: they must not be negative, but one is {min(perturbations):g}",
        )
        tasks: list[Task] = []
        cells: list[Cell] = []
        for seed in range(self.seeds):
            shared: dict[str, Task] = {}  # by method, of those that are one model for all horizons
            for method, arm in arms.items():
                if seed and not arm.trained:
                    continue
                trainings = {}
                for horizon in horizons:
                    key = horizon if arm.per_horizon else None
                    if key not in trainings:
                        part, words = (f"-h{horizon}", ("--horizon", str(horizon))) if arm.per_horizon else ("", ())
                        base = shared.get(arm.on)
                        first = ("--method.autoencoder-from", str(base.run)) if base else ()
                        task = self.training(f"{method}{part}-s{seed}", arm.preset, seed, (*words, *first, *arm.words), method)
                        trainings[key] = replace(task, needs=(base.name,)) if base else task
                        tasks.append(trainings[key])
                        if key is None:
                            shared[method] = trainings[key]
                    for perturbation in perturbations:
                        task = self.evaluation(trainings[key], horizon=horizon, perturbation=perturbation)
                        tasks.append(task)
                        cells.append(Cell({"method": method, "horizon": horizon, "perturbation": perturbation}, seed, task))
        return tasks, cells

    def settings(self) -> dict[str, Any]:
        arms, horizons, perturbations = self.recipe
        shown = {method: arm._asdict() for method, arm in arms.items()}
        return {**super().settings(), "horizons": list(horizons), "perturbations": list(perturbations), "arms": shown}

    def extras(self, result: dict[str, Any]) -> dict[str, Any]:
        return {"flops": flops(result["pooled"]), "cheapest": cheapest(result["pooled"], result["score"])}

    def intro(self, result: dict[str, Any]) -> str:
        return (
            f"{result['score'].replace('_', ' ')} on {result['cells'][0]['env']}, mean over {self.episodes} episodes of each of "
            f"{self.seeds} training seeds. Brackets: 95 % intervals over the episodes of these trainings; the JSON also has those that "
            "resample the trainings."
        )

    def tables(self, result: dict[str, Any]) -> list[Table]:
        from lwd.studies.horizon_tables import tables

        return tables(result)

    def figures(self, result: dict[str, Any], cells: Sequence[Cell]) -> list[Picture]:
        from lwd.report import Picture
        from lwd.studies import figures

        entries, score, folder = result["pooled"], result["score"], self.directory
        title = "perturbation {:g} px"
        grid = figures.lines_with_bands(
            entries,
            folder / "figure3.png",
            x="horizon",
            line="method",
            panel="perturbation",
            score=score,
            xlabel="action horizon (steps between queries)",
            panel_title=title,
        )
        time = figures.time_against_score(
            entries,
            folder / "figure20.png",
            mark="horizon",
            line="method",
            panel="perturbation",
            score=score,
            mark_title="horizon",
            panel_title=title,
        )
        bands = "Bands: 95 % intervals over episodes (dark), and over trainings and environments (faint)."
        clock = "Median times of a batch of one, times queries and steps of an episode; the simulator is not counted."
        film = self._film(cells)
        return [
            Picture(grid, "Score against horizon (Figure 3)", bands),
            Picture(time, "Time of an episode against score (Figure 20)", clock),
            *([film] if film is not None else []),
        ]

    def _film(self, cells: Sequence[Cell]) -> Picture | None:
        """Figure 4: one episode of LWD above the same one of DP; always the first environment seed, and the first training seed."""
        from lwd.report import Picture
        from lwd.studies.figures import film, film_rows

        _, horizons, perturbations = self.recipe
        horizon = sorted(horizons)[len(horizons) // 2]
        magnitude = FILM_PERTURBATION if FILM_PERTURBATION in perturbations else max(perturbations)
        first = {cell.labels["method"]: cell for cell in reversed(cells) if cell.labels["horizon"] == horizon}
        shown = [method for method in ("lwd", "dp") if method in first] or list(first)[:1]
        if not shown:
            return None
        rows = {
            method: film(first[method].task.run, seed=self.seed_start, horizon=horizon, perturbation=magnitude, device=self.device)
            for method in shown
        }
        path = film_rows(
            rows, self.directory / "figure4.png", f"horizon {horizon}, block displaced by up to {magnitude:g} px in a tenth of all steps"
        )
        caption = (
            f"Environment seed {self.seed_start}, training seed {first[shown[0]].seed}; evenly spaced frames, every other one moved to the "
            "nearest displacement. A red frame marks the steps just after one. Below: score so far, queries, displacements."
        )
        return Picture(path, "One perturbed episode (Figure 4)", caption, wide=True)


def flops(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Amortised FLOPs of an environment step, per horizon: of every method, and how many times as many DP needs as each LWD."""
    rows = []
    for horizon in sorted({entry["horizon"] for entry in entries}):
        own = {e["method"]: e["flops_per_step"]["amortised_total"] for e in reversed(entries) if e["horizon"] == horizon}
        ratios = {method: own["dp"] / own[method] for method in OURS if "dp" in own and own.get(method)}
        rows.append({"horizon": horizon, "flops_per_step": dict(reversed(own.items())), "dp_over": ratios})
    return rows


def cheapest(entries: Sequence[dict[str, Any]], score: str) -> list[dict[str, Any]]:
    """Per perturbation: the longest horizon at which LWD still reaches DP's best mean score - 0.05, and what a step costs there.

    A row for each LWD of the study (`method`). `dp_over` is DP's cost at the horizon of its best score over LWD's at that longest horizon;
    None where LWD reaches it nowhere.
    """
    rows = []
    for perturbation in sorted({entry["perturbation"] for entry in entries}):
        found = {m: [e for e in entries if e["method"] == m and e["perturbation"] == perturbation] for m in ("dp", *OURS)}
        if not found["dp"]:
            continue
        best = max(found["dp"], key=lambda e: e["scores"][score]["mean"])
        target = best["scores"][score]["mean"] - MARGIN
        cost = best["flops_per_step"]["amortised_total"]
        for method in OURS:
            if not found[method]:
                continue
            row: dict[str, Any] = {
                "perturbation": perturbation,
                "dp_horizon": best["horizon"],
                "dp_score": best["scores"][score]["mean"],
                "dp_flops": cost,
                "method": method,
                "horizon": None,
                "score": None,
                "flops": None,
                "dp_over": None,
            }
            enough = [e for e in found[method] if e["scores"][score]["mean"] >= target]
            if enough:
                longest = max(enough, key=lambda e: e["horizon"])
                own = longest["flops_per_step"]["amortised_total"]
                row.update(horizon=longest["horizon"], score=longest["scores"][score]["mean"], flops=own, dp_over=cost / own)
            rows.append(row)
    return rows
