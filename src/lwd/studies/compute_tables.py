"""The tables of `lwd study compute`, and its comparison: how many times fewer FLOPs for about the same success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lwd.errors import LWDError

if TYPE_CHECKING:
    from lwd.report import Table

MARGIN = 0.02  # how far below LWD's best mean its cheapest model may be
METHODS = {"lwd": "LWD", "dp": "DP, U-Net", "dp-mlp": "DP, residual MLP", "mlp": "MLP"}


def label(entry: Mapping[str, Any]) -> str:
    """A pooled entry in a word or two: the model, and its denoising steps where they were chosen."""
    return f"{entry['model']} ({entry['steps']})" if entry.get("steps") else str(entry["model"])


def model_table(entries: Sequence[Mapping[str, Any]], score: str, title: str) -> Table:
    """A row per model: scores, FLOPs, times."""
    from lwd.report import Table
    from lwd.statistics import Interval

    names = list(entries[0]["scores"])
    rows = []
    for entry in entries:
        wide = Interval.from_dict({"mean": entry["scores"][score]["mean"], **entry["scores"][score]["over_trainings"]})
        cells = [label(entry), *(str(Interval.from_dict(entry["scores"][name])) for name in names)]
        cells.append("–" if wide.low != wide.low else f"[{wide.low:.2f}, {wide.high:.2f}]")
        cells.append(f"{1e3 * gflops(entry):.3g}")
        rows.append([*cells, f"{entry['ms_per_query']:.3g}", f"{entry['ms_per_control_step']:.3g}"])
    scores = [name.replace("_", " ") for name in names]
    columns = ["model", *scores, "over trainings", "MFLOP per step", "ms per query", "ms per step"]
    caption = (
        "Over trainings: the interval that resamples training seeds and environments. MFLOP of an environment step. "
        "Times: a batch of one, medians, while other cells ran beside."
    )
    return Table(title, columns, rows, caption)


def gflops(entry: Mapping[str, Any]) -> float:
    """Counted FLOPs of an environment step, the query spread over the steps until the next one, in 1e9."""
    return float(entry["flops_per_step"]["amortised_total"]) / 1e9


def comparisons(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per perturbation and kind of DP: LWD's cheapest model within 0.02 of its best mean, and the DP whose mean is closest to it (of
    equally close ones, the cheapest); `ratio` is DP's FLOPs over LWD's, `difference` LWD minus DP in pairs."""
    from lwd.studies.output import points, scores_of
    from lwd.studies.pooling import difference

    score, entries = result["score"], result["pooled"]
    rows = {(label(dict(key)), dict(key)["perturbation"]): group for key, group in points(result["cells"]).items()}
    found = []
    for perturbation in sorted({entry["perturbation"] for entry in entries}):
        own = [entry for entry in entries if entry["perturbation"] == perturbation]
        lwd = [entry for entry in own if entry["method"] == "lwd"]
        for kind in ("dp", "dp-mlp"):
            dp = [entry for entry in own if entry["method"] == kind]
            if not lwd or not dp:
                continue
            best = max(entry["scores"][score]["mean"] for entry in lwd)
            cheap = min((entry for entry in lwd if entry["scores"][score]["mean"] >= best - MARGIN - 1e-9), key=gflops)
            mean = cheap["scores"][score]["mean"]
            close = min(dp, key=lambda entry: (round(abs(entry["scores"][score]["mean"] - mean), 9), gflops(entry)))
            try:
                paired = difference(*(scores_of(rows[label(entry), perturbation], score) for entry in (cheap, close)))
            except LWDError:  # what both have was lost to failures
                paired = None
            found.append(
                {
                    "perturbation": perturbation,
                    "kind": kind,
                    "lwd": label(cheap),
                    "lwd_score": cheap["scores"][score],
                    "lwd_gflops": gflops(cheap),
                    "dp": label(close),
                    "dp_score": close["scores"][score],
                    "dp_gflops": gflops(close),
                    "ratio": gflops(close) / gflops(cheap) if gflops(cheap) else None,
                    "difference": paired,
                }
            )
    return found


def sentence(row: Mapping[str, Any]) -> str:
    """A comparison in words."""
    from lwd.statistics import Interval

    def shown(kind: str) -> str:
        return f"{row[kind]}, {Interval.from_dict(row[f'{kind}_score'])} at {1e3 * row[f'{kind}_gflops']:.3g} MFLOP a step"

    noise = f"With action noise {row['perturbation']:g}: " if row["perturbation"] else ""
    apart = "" if row["difference"] is None else f" LWD minus DP, in pairs: {Interval.from_dict(row['difference'])}."
    times = "an unknown number of times" if row["ratio"] is None else f"{row['ratio']:.3g} times"
    return (
        f"{noise}LWD's cheapest model within {MARGIN:g} of its best is {shown('lwd')}; the model of {METHODS[row['kind']]} whose mean is "
        f"closest is {shown('dp')}, **{times} as many** FLOPs.{apart}"
    )
