"""What the settings share: refusals, and lists on the command line."""

from __future__ import annotations

from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec

from lwd.errors import LWDError


def require(condition: bool, message: str) -> None:
    """Raise `LWDError(message)` unless the condition holds."""
    if not condition:
        raise LWDError(message)


def listed(kind: type, metavar: str) -> PrimitiveConstructorSpec[tuple[Any, ...]]:
    """A list on the command line: `16,32` and `16 32` are the same."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=lambda words: tuple(kind(part) for word in words for part in word.split(",") if part),
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(part, kind) for part in value),
        str_from_instance=lambda value: [",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)],
    )


Floats = Annotated[tuple[float, ...], listed(float, "NUMBER,NUMBER,...")]
Words = Annotated[tuple[str, ...], listed(str, "NAME,NAME,...")]
