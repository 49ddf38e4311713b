"""Upstream's option names, from a JSON object to a frozen dataclass."""

import dataclasses
import difflib
import fnmatch
import math
from typing import Any, TypeVar

from pivotrl_jax.errors import UserError

Options = TypeVar("Options")

# Two of upstream's servers keep their options under this key.
_WRAPPER = "tool_call_comparator_config"


def read_options(defaults: Options, given: Any) -> Options:
    """`defaults` with the values that `given` names.

    A field whose metadata has "choices" takes one of those. Names that match a pattern in the
    attribute `unread` of `defaults` are upstream's too but decide no verdict here. Raises UserError
    for an unknown name (naming the nearest) and for a value of another type than the default's.
    """
    if isinstance(given, dict) and list(given) == [_WRAPPER]:
        given = given[_WRAPPER]
    if not isinstance(given, dict):
        raise UserError("config is not an object: give upstream's options by name")
    fields = {field.name: field for field in dataclasses.fields(defaults)}  # type: ignore[arg-type]
    unread = [name for name in given if name not in fields and _matches(name, defaults)]
    given = {name: value for name, value in given.items() if name not in unread}
    for name, value in given.items():
        if name not in fields:
            nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]
            raise UserError(f"config has no option {name!r}: did you mean {nearest!r}?")
        choices = fields[name].metadata.get("choices")
        if choices and value not in choices:
            raise UserError(f"config.{name} is {value!r}: use one of {', '.join(choices)}")
        if not _same_type(value, getattr(defaults, name)):
            wanted = type(getattr(defaults, name)).__name__
            raise UserError(f"config.{name} is {str(value)[:80]!r}: give a {wanted}")
    return dataclasses.replace(defaults, **given)  # type: ignore[type-var]


def _matches(name: str, defaults: Any) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in getattr(defaults, "unread", ()))


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return isinstance(value, type(default))
