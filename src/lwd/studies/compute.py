"""`lwd study compute`: success against FLOPs of an environment step on Metaworld (sections 4.1.2 and J.1; Figure 6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from lwd.config import Config, DiffusionPolicyConfig, EvalSettings, MLPConfig, Stage
from lwd.presets import PAPER
from lwd.report.tables import Table
from lwd.studies.study import Drawing, Study, recipe
from lwd.studies.views import by_task, cost_drawing, interval, query_cost, scores

if TYPE_CHECKING:
    import pandas as pd

    from lwd.studies.results import Results

EPISODE = 500  # steps
SIZES = ("xs", "s", "m", "l", "xl")  # of the U-Net, Table 3
CHUNKS = (32, 128)  # section 4.1.2
WIDTHS = (128, 256, 512)  # of the policies, likewise
MARGIN = 0.02  # how far below LWD's best mean its cheapest model may be


class Arm(NamedTuple):
    """A model: its kind in the figure, its training, the steps between its queries, and what is written at its point."""

    kind: str
    config: Config
    every: int
    mark: str


def arms(paper: bool) -> dict[str, Arm]:
    """All models by name. DP executes half of each chunk where its name does not say otherwise."""
    lwd, dp, mlp = recipe("metaworld"), recipe("metaworld-dp"), recipe("metaworld-mlp")
    unet = recipe(dp, denoiser="unet", diffusion={"steps": 3000, "batch": 64})
    if paper:  # Tables 3, 6, 9. The paper does not say how long DP and MLP were trained: ten passes over 10,000 demonstrations
        stage = Stage(steps=200_000, batch=256, lr=1e-4, warmup=500)
        epochs = 31_300  # gradient steps: 100 epochs of 10,000 demonstrations in batches of 32
        lwd = recipe(replace(lwd, method=PAPER), autoencoder=epochs, diffusion=epochs, decoder="xs", beta=1e-6, unet_size="m")
        lwd = recipe(lwd, world_model=False)
        own: Any = {"denoiser": "unet", "prediction": "epsilon", "sampler": "ddpm", "sampler_steps": 100}  # of the script that J.1 names
        unet = replace(dp, method=DiffusionPolicyConfig(diffusion=stage, history=2, **own))
        mlp = replace(mlp, method=MLPConfig(cloning=stage, policy_noise=0.0))
    found = {f"lwd-{w}": Arm("LWD", recipe(lwd, policy=(w, w)), EPISODE, str(w)) for w in WIDTHS}
    for width in () if paper else (64, 128):  # of policies whose latents a small network denoises
        found[f"lwd-fast-{width}"] = Arm("LWD", recipe(lwd, policy=(width, width), denoiser_width=128), EPISODE, f"fast {width}")
    for chunk in CHUNKS:
        for size in SIZES:
            config = recipe(unet, horizon=chunk, unet_size=size)
            found[f"dp-{size}-{chunk}"] = Arm("DP, U-Net", config, chunk // 2, f"{size}, {chunk}")
        residual = Arm("DP, residual MLP", recipe(dp, horizon=chunk), chunk // 2, str(chunk))
        found |= {} if paper else {f"dp-mlp-{chunk}": residual}
        for every in (4, 8) if not paper and chunk == min(CHUNKS) else ():
            found[f"dp-mlp-{chunk}-every-{every}"] = residual._replace(every=every, mark=f"{chunk}, every {every}")
    return found | {f"mlp-{w}": Arm("MLP", recipe(mlp, policy=(w, w)), EPISODE, str(w)) for w in WIDTHS}


ARMS = {"cpu": arms(paper=False), "paper": arms(paper=True)}
RARE = {"dp-m-128", *(f"dp-{size}-{chunk}" for size in ("l", "xl") for chunk in CHUNKS), "lwd-fast-64", "lwd-fast-128"}


def points_of(results: Results) -> pd.DataFrame:
    """The points of the grid, with what figure and comparison need of each; in the order of `Results.groups`."""
    points = results.points()
    own = [ARMS[results.plan.variant][model] for model in points["model"]]
    steps = [f" ({count})" if count else "" for count in points["sampler_steps"]]
    marks = [arm.mark + count for arm, count in zip(own, steps, strict=True)]
    return points.assign(line=[arm.kind for arm in own], mark=marks, join=points["model"], label=points["model"] + steps)


def comparisons(results: Results) -> Iterator[Table]:
    """LWD's cheapest model within 0.02 of its best mean, against the DP whose mean is closest to it (the cheapest of these)."""
    from lwd.studies.results import difference

    rows, groups = [], list(results.groups.values())
    for noise, points in points_of(results).groupby("noise", sort=False):
        lwd = points[points["line"] == "LWD"]
        for kind in ("DP, U-Net", "DP, residual MLP"):
            dp = points[points["line"] == kind]
            if len(lwd) and len(dp):
                cheap = lwd[lwd["mean"] >= lwd["mean"].max() - MARGIN - 1e-9].nsmallest(1, "step_flops").iloc[0]
                close = dp.assign(gap=(dp["mean"] - cheap["mean"]).abs().round(9)).nsmallest(1, ["gap", "step_flops"]).iloc[0]
                texts = [f"{e['label']}: {e['mean']:.2f} at {e['step_flops'] / 1e6:.3g} MFLOP" for e in (cheap, close)]
                paired = difference(groups[cheap.name], groups[close.name], results.score)
                apart = "–" if paired is None else interval(paired)
                rows.append([f"{noise:g}", *texts, f"{close['step_flops'] / cheap['step_flops']:.3g}", apart])
    if rows:
        caption = f"LWD's cheapest model within {MARGIN:g} of its best mean, and the DP whose mean is closest. The difference is in pairs."
        yield Table("how many times as many FLOPs", ["noise", "LWD", "DP", "DP / LWD", "LWD minus DP"], rows, caption)


def figure6(results: Results) -> Iterator[Drawing]:
    """Success against FLOPs per environment step, a line per model (Figure 6)."""
    note = "At the points: width of the policy (LWD, MLP), size of the U-Net and length of the chunk (DP)."
    title, label = "Success against compute (Figure 6)", "FLOPs per environment step"
    yield cost_drawing(results, points_of(results), "figure6", title, note, "step_flops", label)


MODELS = tuple(name for name in ARMS["cpu"] if name not in RARE)
STUDY = Study(
    "Success on tasks of Metaworld against the FLOPs of an environment step",
    axes={"model": MODELS, "sampler_steps": (0,), "demonstrations": (0,), "noise": (0.0,)},
    variants={"cpu": {}, "paper": {"model": tuple(ARMS["paper"])}},
    more={"model": tuple(sorted(RARE))},
    train=lambda cell: recipe(ARMS[cell.variant][cell.model].config, demonstrations=cell.demonstrations),
    evaluate=lambda cell: EvalSettings(
        replan_every=ARMS[cell.variant][cell.model].every,
        disturb=f"action-noise:{cell.noise:g}",
        sampler_steps=0 if cell.model.startswith("mlp") else cell.sampler_steps,
    ),
    views=[comparisons, scores("model", every=True), query_cost("model"), by_task("model"), figure6],
    data="data/metaworld-ten",
    episodes=16,
    note="sampler_steps: denoising steps of a query, 0 for those of training. noise: standard deviation of noise on the actions.",
)
