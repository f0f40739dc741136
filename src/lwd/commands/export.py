"""`lwd export`: a policy as source code, or a run as ONNX graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from lwd.config import EvalSettings, Sampler, require


@dataclass
class Export:
    """Take a policy to C or to numpy alone, or a whole run to ONNX, and print the files."""

    source: Positional[str]
    """File of a policy (c, numpy), which `lwd generate` writes; or run directory (onnx)."""
    to: Literal["c", "numpy", "onnx"]
    """c: the kernel in C99, the policy as constants, and a program that checks the two. numpy: one Python file that needs numpy alone.
    onnx: the generator and its policy as graphs, and a report that compares them with torch."""
    out: str = "deployed"
    """Folder for the files."""
    sampler: Sampler | None = None
    """Sampler that is unrolled into the graph (onnx); the run's own by default."""
    sampler_steps: int = 0
    """Its denoising steps (onnx); the run's own by default."""

    def __call__(self) -> None:
        folder = Path(self.out)
        if self.to == "onnx":
            from lwd.deploy.graphs import export_onnx

            paths = export_onnx(self.source, folder, EvalSettings(sampler=self.sampler, sampler_steps=self.sampler_steps))
        else:
            from lwd.deploy.policy import load_policy
            from lwd.deploy.source import write_c, write_numpy

            found = sorted(Path(self.source).glob("*.safetensors"))
            instead = f"give one of its policies, {found[0]}" if found else f"`lwd generate {self.source} ...` writes policies of a run"
            require(Path(self.source).is_file(), f"{self.source} is no file: {instead}")
            require(
                not self.sampler and not self.sampler_steps, "a policy has been sampled already: --sampler and --sampler-steps go with onnx"
            )
            paths = (write_c if self.to == "c" else write_numpy)(load_policy(self.source), folder)
        print("\n".join(map(str, paths)))
