"""Where does the chain break? One rung per link, from the autoencoder to rollouts, measured on held-out data (docs/diagnose.md)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from lwd.config import require
from lwd.errors import LWDError
from lwd.ladder import Ladder
from lwd.methods.lwd import LWD
from lwd.run import Run
from lwd.train import load_data, load_method


def diagnose(run: Run, *, rollouts: int = 32, device: str = "cpu", samples: int = 512, seed: int = 0) -> dict[str, Any]:
    """All rungs of a trained run.

    Args:
        run: trained, at least through the autoencoder stage.
        rollouts: held-out start states for rung 5; 0, or data without a simulator, leaves it out.
        device: where to compute.
        samples: held-out snippets that are measured.
        seed: of everything random here.

    Returns:
        JSON-ready: the run, the rungs, and the first broken one.

    Raises:
        LWDError: no trained model, or the data is gone.
    """
    require(samples >= 2, f"--samples counts snippets: at least 2, not {samples}")
    require(rollouts >= 0, f"--rollouts counts start states: it must not be negative, but is {rollouts}")
    config = run.config()
    training, held = load_data(config)
    if run.record()["data"]["fingerprint"] != training.fingerprint():
        raise LWDError(f"{config.data} is not the data that {run.path} was trained on: restore it")
    method = load_method(run, device)
    if not isinstance(method, LWD):
        raise LWDError(f"the ladder measures the links of LWD, and {run.path} is a run of {config.method.name}: compare it with lwd eval")
    _, state = run.load("model")
    if "autoencoder" not in state["done"]:
        raise LWDError(f"{run.path}: the autoencoder is not trained to its end yet: continue with the same `lwd train` command")
    ladder = Ladder(method, training, held, samples, seed, "diffusion" in state["done"], device)
    rungs = [*ladder.reconstruction(), *ladder.use_of_the_latent(), *ladder.off_the_path(), *ladder.sampling()]
    if rollouts and training.meta.env is not None:
        rungs += ladder.rollouts(rollouts)
    rungs += ladder.world_model()
    bad = [r for r in rungs if r.verdict == "broken"]
    return {
        "version": 1,
        "run": str(run.path),
        "held_out_snippets": samples,
        "horizon": method.horizon,
        "rungs": [asdict(r) for r in rungs],
        "first_broken": bad[0].name if bad else None,
    }


def render(result: dict[str, Any]) -> Table:
    """The ladder as a table."""
    table = Table(title=f"{result['run']}: the chain, link by link ({result['held_out_snippets']} held-out snippets)")
    for column in ("", "link", "figure", "against", "verdict", "when bad"):
        table.add_column(column, justify="right" if column in ("figure", "against") else "left")
    colour = {"ok": "green", "weak": "yellow", "broken": "red", "-": "white"}
    for r in result["rungs"]:
        against = "" if r["against"] is None else f"{r['against']:.3g} {r['unit']}"
        verdict = f"[{colour[r['verdict']]}]{r['verdict']}[/]"
        table.add_row(
            str(r["rung"]), r["name"], f"{r['value']:.3g} {r['unit']}", against, verdict, r["meaning"] if r["verdict"] != "ok" else ""
        )
    return table
