"""Settings as JSON-ready data, and back."""

from __future__ import annotations

import dataclasses
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from lwd.config.common import require
from lwd.config.methods import METHODS, LWDConfig, MethodConfig
from lwd.config.run import Config


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON-ready data; the method's settings say their method's name."""
    values = dataclasses.asdict(config)
    if isinstance(config, Config):
        values["method"] = {"name": config.method.name, **values["method"]}
    return values


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """The inverse of `to_dict`: missing fields have their defaults; `LWDError` for unknown fields and values of the wrong type."""
    require(isinstance(values, dict), f"{kind.__name__} must be a JSON object, not {values!r}")
    hints = get_type_hints(kind, include_extras=False)
    unknown = sorted(set(values) - {f.name for f in dataclasses.fields(kind)})
    require(not unknown, f"{kind.__name__} has no field {', '.join(unknown)}: the run was written by another version of lwd")
    result = {}
    for name, value in values.items():
        if hints[name] is MethodConfig:
            require(isinstance(value, dict), f"{kind.__name__}.{name} must be a JSON object, not {value!r}")
            own = dict(value)
            method = own.pop("name", LWDConfig.name)
            require(method in METHODS, f"this lwd knows no method {method!r}: the run was written by another version of lwd")
            value = from_dict(METHODS[method], own)
        elif dataclasses.is_dataclass(hints[name]):
            value = from_dict(hints[name], value)
        elif isinstance(value, list):
            value = tuple(value)
        require(_fits(value, hints[name]), f"{kind.__name__}.{name} cannot be {value!r}: the file is damaged, or of another version of lwd")
        result[name] = value
    return kind(**result)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON can be of a field's type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, arguments[0])
    if origin is Literal:
        return value in arguments
    if origin in (types.UnionType, Union):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, arguments[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint is type(None) and value is None if hint in (type(None), None) else isinstance(value, hint)
