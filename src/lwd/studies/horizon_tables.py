"""The tables of `lwd study horizon`, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lwd.report import Table
from lwd.statistics import Interval
from lwd.studies.files import find


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Scores, paired differences, FLOPs of a step, and the horizon that is still as good as DP's best."""
    entries, score = result["pooled"], result["score"]
    name = score.replace("_", " ")
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    places = list(dict.fromkeys((entry["perturbation"], entry["horizon"]) for entry in sorted(entries, key=_place)))
    rows = []
    for perturbation, horizon in places:
        found = [find(entries, method=method, perturbation=perturbation, horizon=horizon) for method in methods]
        best = max((e["scores"][score]["mean"] for e in found if e is not None), default=0.0)
        cells = ["–" if e is None else _bold(Interval.from_dict(e["scores"][score]), e["scores"][score]["mean"] == best) for e in found]
        rows.append([f"{perturbation:g} px, {horizon} steps", *cells])
    made = [Table(f"{name}", ["perturbation, horizon", *methods], rows, "In bold: the best mean of the row. Brackets: 95 % intervals.")]
    if result["differences"]:
        made.append(_differences(result["differences"], name, places))
    made.append(_flops(result["flops"]))
    if result["cheapest"]:
        made.append(_cheapest(result["cheapest"], name))
    return made


def _differences(differences: list[dict[str, Any]], name: str, places: list[tuple[float, int]]) -> Table:
    others = list(dict.fromkeys(entry["method"] for entry in differences))
    rows = []
    for perturbation, horizon in places:
        found = [find(differences, method=method, perturbation=perturbation, horizon=horizon) for method in others]
        cells = ["–" if e is None else str(Interval.from_dict(dict(e))) + _marks(e) for e in found]
        rows.append([f"{perturbation:g} px, {horizon} steps", *cells])
    caption = (
        "Pairs share training seed and environment. `*`: the 95 % intervals of the two scores have no number in common; `**`: not even "
        "those that resample the trainings."
    )
    return Table(f"LWD minus the others, {name}", ["perturbation, horizon", *(f"− {other}" for other in others)], rows, caption)


def _flops(entries: list[dict[str, Any]]) -> Table:
    methods = list(entries[0]["flops_per_step"])
    ours = list(entries[0]["dp_over"])
    rows = [
        [
            str(entry["horizon"]),
            *(f"{entry['flops_per_step'][m] / 1e6:.3g}" if m in entry["flops_per_step"] else "–" for m in methods),
            *(_ratio(entry["dp_over"].get(m)) for m in ours),
        ]
        for entry in entries
    ]
    caption = "Query and control step, the query spread over the horizon; matrix products and convolutions, a batch of one."
    return Table("MFLOP per environment step", ["horizon", *methods, *(f"dp / {m}" for m in ours)], rows, caption)


def _cheapest(entries: list[dict[str, Any]], name: str) -> Table:
    def cell(horizon: int, mean: float, cost: float) -> str:
        return f"{horizon} steps: {mean:.2f}, {cost / 1e6:.3g} MFLOP"

    rows = []
    for e in entries:
        own = "none" if e["horizon"] is None else cell(e["horizon"], e["score"], e["flops"])
        dp = cell(e["dp_horizon"], e["dp_score"], e["dp_flops"])
        rows.append([f"{e['perturbation']:g} px", dp, e["method"], own, _ratio(e["dp_over"])])
    columns = ["perturbation", "dp, best", "against", "up to", "dp / it"]
    return Table(
        "The longest horizon at which LWD reaches DP's best − 0.05",
        columns,
        rows,
        f"Mean {name}, and MFLOP per environment step; intervals are in the first table.",
    )


def _marks(entry: Mapping[str, Any]) -> str:
    return " `**`" if entry["disjoint_over_trainings"] else " `*`" if entry["disjoint"] else ""


def _bold(interval: Interval, best: bool) -> str:
    return f"**{interval}**" if best else str(interval)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _place(entry: Mapping[str, Any]) -> tuple[float, int]:
    return entry["perturbation"], entry["horizon"]
