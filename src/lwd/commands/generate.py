"""`lwd generate`: policies of a trained run, one file each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from lwd.deploy.request import Request


@dataclass
class Generate:
    """Generate policies for an observation, and write each into a file that runs without torch: in numpy, in C, or in ONNX."""

    run: Positional[str]
    """Run directory of a method whose controllers are policies (lwd, mlp)."""
    request: Annotated[Request, arg(name="")] = field(default_factory=Request)
    out: str = "policies"
    """Folder for the files, policy-SEED.safetensors."""

    def __call__(self) -> None:
        from lwd.deploy.generate import generate
        from lwd.files import write_bytes

        for seed, policy in generate(self.run, self.request):
            path = Path(self.out) / f"policy-{seed}.safetensors"
            write_bytes(path, policy.to_bytes())
            print(path)
