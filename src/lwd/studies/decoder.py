"""`lwd study decoder`: size of the hypernetwork against length of the snippets, on Metaworld (appendix F; Figure 15)."""

from lwd.config import EvalSettings
from lwd.studies.snippets import CAPTION, EPISODE, KEPT, NOTE, stage_one
from lwd.studies.study import Study
from lwd.studies.views import lines, measured, scores

SIZES = {
    "decoder, M parameters": ("parameters.decoder", 1e-6, "{:.2f}"),
    "policy, k weights": ("parameters.generated policy", 1e-3, "{:.1f}"),
}
PARAMETERS = "parameters of the hypernetwork"
STUDY = Study(
    "Size of the hypernetwork, for whole episodes and for short snippets: success of decoded policies, and what they reconstruct",
    axes={"length": (EPISODE, 50), "decoder": ("xs", "s", "m", "l"), "demonstrations": (0,)},
    train=lambda cell: stage_one(cell.length, cell.demonstrations, decoder=cell.decoder),
    evaluate=lambda cell: EvalSettings(max_steps=EPISODE),
    decode=True,
    views=[
        scores("decoder", every=True),
        measured(["length", "decoder"], {**SIZES, **KEPT}, "what the autoencoder keeps", CAPTION),
        lines("figure15", "Success of decoded policies (Figure 15)", "parameters.decoder", "length", xlabel=PARAMETERS),
    ],
    data="data/metaworld-mt10",
    episodes=16,
    note=NOTE,
)
