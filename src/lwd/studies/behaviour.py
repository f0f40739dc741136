"""`lwd study behaviour`: do generated policies behave like those that made the data (section 4.2; Figures 8, 9, 17 to 19, Table 2)?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lwd.config import Config, EvalSettings
from lwd.report.tables import Table
from lwd.studies.study import Cell, Drawing, Study, recipe
from lwd.studies.views import latent_map, scores, separability, words

if TYPE_CHECKING:
    import pandas as pd

    from lwd.studies.results import Results

EACH = 32  # demonstrations of each behaviour that are trained on; those beyond are the second set of the source
SNIPPET = 100  # steps
BLENDS = ("blend0", "blend0.25", "blend0.5", "blend0.75", "blend1")  # on the way from the first expert to the first medium episode


def train(cell: Cell) -> Config:
    """One generator of all behaviours, of whole episodes or of snippets; the paper's MLP, which is told the behaviour, too; and an MLP as
    large as a generated policy, with four times the batch, without which it is worse."""
    own: dict[str, Any] = {"demonstrations": EACH, "holdout": 0.0}
    if cell.arm == "mlp":
        return recipe(f"{cell.variant}-mlp", **own)
    if cell.arm == "mlp-equal":
        ours: Any = recipe(cell.variant).method
        return recipe(f"{cell.variant}-mlp", policy=ours.policy, cloning={"batch": 1024, "steps": 24_000}, **own)
    snippets: dict[str, Any] = {"horizon": SNIPPET, "starts": "every", "stride": 1} if cell.arm == "snippets" else {}
    return recipe(cell.variant, **snippets, **own)


def evaluate(cell: Cell) -> EvalSettings:
    """One query an episode; `decoded`: the latents of demonstrations instead of sampled ones."""
    if cell.arm in BLENDS:
        return EvalSettings(replan_every=1000, blend=(0, EACH, float(cell.arm.removeprefix("blend"))), tasks=("expert",))
    return EvalSettings(replan_every=1000, latent="encoded" if cell.arm in ("decoded", "snippets") else "model")


def sources(results: Results) -> pd.DataFrame:
    """A row per recorded episode: `task`, `again` (beyond the first 32 of its behaviour), and a column for each score that is recorded."""
    import pandas as pd

    from lwd.data.prepare import first_of_each_task
    from lwd.data.read import read

    episodes = read(results.plan.data)
    frame = pd.DataFrame({"task": episodes.labels, **{own: episodes.tags[own] for own in results.kinds if own in episodes.tags}})
    return frame.assign(again=~frame.index.isin(first_of_each_task(episodes, EACH, episodes.labels)))


def feet_of(results: Results) -> list[str]:
    """The scores that are shares of the steps with a foot on the ground: the environment tells of each foot at every step."""
    from lwd.envs.base import family

    return [key for key in family(results.facts["env"]).info_keys if key.startswith("contact_")]


def compared(results: Results) -> Iterator[Table]:
    """Every score of source and arms: mean and standard deviation over episodes."""
    found = sources(results)
    for score in results.kinds:
        rows = []
        for task in sorted(found["task"].unique()):
            parts = {"source": found[found["task"] == task]}
            parts |= {arm: own[own["task"] == task] for (arm,), own in results.groups.items() if arm not in BLENDS}
            texts = [f"{own[score].mean():.4g} ± {own[score].std():.2g}" if score in own and len(own) else "–" for own in parts.values()]
            rows.append([task, *texts])
        yield Table(
            f"{words(score)} by behaviour (Figures 18, 19)", ["behaviour", *parts], rows, "Mean ± standard deviation over episodes."
        )


def divergences(results: Results) -> Iterator[Table]:
    """Jensen-Shannon divergence of foot contacts from the source (Table 2): of a second set of the source, and of each arm."""
    from lwd.statistics import jensen_shannon

    found, feet = sources(results), feet_of(results)
    rows = []
    for task in sorted(found["task"].unique()) if set(feet) <= set(found) and feet else ():
        own = found[found["task"] == task]
        source, again = (own[own["again"] == which][feet].to_numpy(float) for which in (False, True))
        texts = [f"{jensen_shannon(source, again):.3f}" if len(again) else "–"]
        for (arm,), episodes in results.groups.items():
            if arm not in BLENDS:
                parts = [part[feet].to_numpy(float) for _, part in episodes[episodes["task"] == task].groupby("training_seed")]
                values = [jensen_shannon(source, part) for part in parts]
                texts.append(f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})" if values else "–")
        rows.append([task, *texts])
    arms = [arm for (arm,) in results.groups if arm not in BLENDS]
    note = (
        "In nats, at most 0.693; estimated with Gaussian kernels (lwd.statistics.jensen_shannon) from 32 episodes each. SOS: two sets of "
        "the source against each other. Mean over trainings (least to most)."
    )
    if rows:
        yield Table("Divergence of foot contacts from the source (Table 2)", ["behaviour", "SOS", *arms], rows, note)


def contacts(results: Results) -> Iterator[Drawing]:
    """Share of steps with contact, of the first two feet: source, decoded and sampled policies, first training seed (Figure 17)."""
    from lwd.report.grids import maps

    found, feet = sources(results), feet_of(results)[:2]
    if len(feet) == 2 and set(feet) <= set(found):
        panels = {"source": found[~found["again"]]}
        groups = {arm: own[own["training_seed"] == 0] for (arm,), own in results.groups.items()}
        panels |= {arm: groups[arm] for arm in ("decoded", "diffusion", "mlp") if arm in groups}
        points = {name: (own[feet].to_numpy(float), own["task"].to_numpy(str)) for name, own in panels.items()}
        figure = maps(points, names=(words(feet[0]), words(feet[1])))
        yield Drawing("figure17", figure, "Foot contacts (Figure 17)", "A point is an episode: the share of its steps with that foot down.")


def path(results: Results) -> Iterator[Table]:
    """What happens on the way from an expert's latent to a medium one."""
    rows = []
    for (arm,), own in results.groups.items():
        if arm in BLENDS:
            rows.append([arm.removeprefix("blend"), *(f"{own[score].mean():.4g} ± {own[score].std():.2g}" for score in results.kinds)])
    note = "Weight of the medium demonstration; mean ± standard deviation over episodes."
    if rows:
        yield Table("Between an expert and a medium demonstration", ["weight", *map(words, results.kinds)], rows, note)


STUDY = Study(
    "Behaviours, not only scores: policies of several sources, decoded and generated",
    axes={"arm": ("diffusion", "decoded", "mlp", "mlp-equal", "snippets", *BLENDS)},
    variants={"halfcheetah": {}, "ant": {}, "walker2d": {}, "hammer": {}},
    train=train,
    evaluate=evaluate,
    measure="separability",
    views=[
        scores("arm"),
        compared,
        divergences,
        contacts,
        path,
        separability("arm", "behaviours"),
        latent_map("figure8", "Components 1 and 2: whole episodes and snippets (Figure 8)", "arm", "label", only=("diffusion", "snippets")),
        latent_map("figure9", "Components 3 and 4 (Figure 9)", "arm", "label", (2, 3), only=("diffusion", "snippets")),
    ],
    data={name: f"data/{name}" for name in ("halfcheetah", "ant", "walker2d", "hammer")},
    episodes=32,
    note="One policy acts for the whole episode. decoded and snippets: of latents of demonstrations; diffusion: of sampled ones, told the "
    "behaviour; mlp: one network of 5 x 512, told the behaviour; mlp-equal: one as large as a generated policy.",
)
