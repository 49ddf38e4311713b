"""Frozen dataclasses from and to ml_collections."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import ml_collections

from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives.names import require

Settings = TypeVar("Settings")


def to_config(settings: Any) -> ml_collections.ConfigDict:
    """A ConfigDict of nested dataclasses; every leaf may be overridden on the command line."""
    config = ml_collections.ConfigDict()
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            config[field.name] = to_config(value)
        elif isinstance(value, Mapping):
            own = {name: to_config(each) for name, each in value.items()}
            config[field.name] = ml_collections.ConfigDict(own)
        elif value is None:
            # A placeholder accepts a value of the field's own type later.
            config[field.name] = ml_collections.config_dict.placeholder(
                _optional(settings, field.name)
            )
        else:
            config[field.name] = value
    return config


def from_config(cls: type[Settings], config: Any, path: str = "config") -> Settings:
    """The frozen dataclass that `config` describes.

    Raises UserError for an unknown field (with the nearest valid one), for a missing one and for
    a value that a `Literal` field does not list.
    """
    types = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in config:
        if name not in names:
            raise UserError(
                f"{path}.{name} is no field; the nearest is {path}.{nearest(name, names)}"
            )
    values: dict[str, Any] = {}
    for name in names:
        if name not in config:
            raise UserError(f"{path}.{name} is missing; set it in the config file")
        kind, value = types[name], config[name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            values[name] = from_config(kind, value, f"{path}.{name}")
        elif typing.get_origin(kind) is Mapping:
            of = typing.get_args(kind)[1]
            values[name] = {
                key: from_config(of, value[key], f"{path}.{name}.{key}") for key in value
            }
        else:
            if typing.get_origin(kind) is Literal:
                require(f"{path}.{name}", value, typing.get_args(kind))
            values[name] = value
    return cls(**values)


def nearest(name: str, names: list[str]) -> str:
    return difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]


def _optional(settings: Any, name: str) -> type:
    """T of a field annotated `T | None`."""
    kinds = typing.get_args(typing.get_type_hints(type(settings))[name])
    return next(kind for kind in kinds if kind is not type(None))
