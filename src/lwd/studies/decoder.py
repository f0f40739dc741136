"""`lwd study decoder`: size of the hypernetwork against length of the snippets, on Metaworld (appendix F; Figure 15)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lwd.studies.snippets import CAPTION, EPISODE, KEPT, NOTE, stage_one
from lwd.studies.study import Decode, Study
from lwd.studies.views import BANDS, Measured, scores

if TYPE_CHECKING:
    from lwd.studies.results import Drawing, Results

SIZES = {
    "decoder, M parameters": ("decoded.parameters.decoder", 1e-6, "{:.2f}"),
    "policy, k weights": ("decoded.parameters.generated policy", 1e-3, "{:.1f}"),
}


def figure15(results: Results) -> Iterator[Drawing]:
    """Success of decoded policies against the parameters of the hypernetwork, a line per length."""
    from lwd.report.grids import lines_with_bands
    from lwd.studies.results import Drawing

    millions = results.cells.groupby("decoder")["decoded.parameters.decoder"].first() / 1e6
    entries = [
        {**entry, "": "", "shown": entry["scores"][results.score], "millions": float(f"{millions[entry['decoder']]:.2g}")}
        for entry in results.pooled
    ]
    labels = {"xlabel": "million parameters of the hypernetwork", "ylabel": results.score.replace("_", " ")}
    figure = lines_with_bands(entries, x="millions", line="length", base=2, **labels)
    yield Drawing("figure15", figure, "Success of decoded policies against size of the hypernetwork (Figure 15)", BANDS)


AUTOENCODER = Measured(["length", "decoder"], {**SIZES, **KEPT}, "what the autoencoder keeps", CAPTION)
STUDY = Study(
    "Size of the hypernetwork, for whole episodes and for short snippets: success of decoded policies, and what they reconstruct",
    axes={"length": (EPISODE, 50), "decoder": ("xs", "s", "m", "l"), "demonstrations": (0,)},
    train=lambda cell: stage_one(cell.length, cell.demonstrations, decoder=cell.decoder),
    evaluate=lambda cell: Decode(EPISODE),
    views=[scores("decoder", every=True), AUTOENCODER, figure15],
    data="data/metaworld-mt10",
    episodes=16,
    note=NOTE,
)
