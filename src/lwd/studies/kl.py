"""`lwd study kl`: the weight of the KL term, from 1e-10 to 1e-2 (appendix D, Figures 12 and 13)."""

from typing import Any

from lwd.config import EvalSettings
from lwd.studies.study import SHORT, Study, recipe
from lwd.studies.views import differences, latent_map, lines, measured, scores

HORIZON = SHORT.horizon
LINKS = {
    "rate, nats": ("links.rate", 1.0, "{:.3g}"),
    "sigma": ("links.sigma", 1.0, "{:.2g}"),
    "final state, decoded": ("links.final_state", 1.0, "{:.1f}"),
    "moved": ("links.moved", 1.0, "{:.1f}"),
    "replayed": ("links.replayed", 1.0, "{:.2f}"),
}
CAPTION = (
    "Mean over trainings (least to most). Final state: pixels after one horizon, from held-out starts; of policies decoded from the "
    "encoder's mean, of actions replayed from the demonstration, and how far the state moved. Sigma: of the posterior over that of the "
    "data, median dimension."
)
BETA: dict[str, Any] = {"x": "beta", "xlabel": "β, weight of the KL term", "base": 10}
PIXELS = "pixels after a horizon"
MAP = latent_map("figure13", "Encoded snippets (Figure 13)", "beta", "progress", label="start of the snippet in its episode")
STUDY = Study(
    "Weight of the KL term: final state of decoded policies, rate, score, latent map",
    axes={"beta": (1e-10, 1e-8, 3e-6, 1e-5, 1e-4, 1e-2), "disturb": ("none", "displace:50")},
    train=lambda cell: recipe(SHORT, beta=cell.beta),
    evaluate=lambda cell: EvalSettings(replan_every=HORIZON, disturb=cell.disturb),
    measure="links",
    against=("beta", 3e-6),
    views=[
        scores("beta"),
        differences,
        measured(["beta"], LINKS, "what the latent holds", CAPTION),
        lines("figure12", "Final state of decoded policies (Figure 12)", value="links.final_state", ylabel=PIXELS, **BETA),
        lines("figure12-rate", "Rate (Figure 12)", value="links.rate", ylabel="nats", **BETA),
        lines("figure12-score", "Score of the whole method", line="disturb", **BETA),
        MAP,
    ],
    note=f"A new policy every {HORIZON} steps. beta weighs against a mean of squared errors, in the paper against a sum.",
)
