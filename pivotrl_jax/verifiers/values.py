"""Equality of JSON values by what they mean under a schema."""

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

from pivotrl_jax.verifiers.schemas import ANYTHING, Schema
from pivotrl_jax.verifiers.texts import plain

_MAX_DEPTH = 64


def same(a: Any, b: Any, schema: Schema = ANYTHING) -> bool:
    """Whether two JSON values are equal as `canonical` has it."""
    return canonical(a, schema) == canonical(b, schema)


def canonical(value: Any, schema: Schema = ANYTHING, depth: int = 0) -> Hashable:
    """A hashable form that two values share exactly when they mean the same.

    Numbers count by value (1 is 1.0; true is not 1), strings after NFC without outer white space,
    objects with the defaults that the schema states filled in, arrays as multisets where
    `Schema.unordered` says so. What is no JSON value (NaN, infinity) or nested deeper than 64
    levels equals nothing, itself included.
    """
    if depth > _MAX_DEPTH:
        return object()
    schema = schema.alternative(value)
    if value is None or isinstance(value, bool):
        return str(value), None
    if isinstance(value, str):
        return "string", plain(value)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return "number", value
    if isinstance(value, Mapping):
        return "object", frozenset(members(value, schema, depth).items())
    if isinstance(value, list):
        items = [canonical(item, schema.items, depth + 1) for item in value]
        unordered = schema.unordered
        return "array", frozenset(Counter(items).items()) if unordered else tuple(items)
    return object()


def members(
    value: Mapping[str, Any], schema: Schema = ANYTHING, depth: int = 0
) -> dict[str, Hashable]:
    """The canonical members of an object, defaults included.

    An optional member that is null, where the schema allows null, is left out, so that it equals
    an absent one unless that has another default.
    """
    complete = _defaults(value, schema) | dict(value)
    return {
        name: canonical(member, schema.member(name), depth + 1)
        for name, member in complete.items()
        if not (member is None and _absent_when_null(name, schema))
    }


def _defaults(value: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    optional = set(schema.mapping("properties")) - schema.required - set(value)
    nodes = {name: schema.member(name) for name in optional}
    return {name: node.rules["default"] for name, node in nodes.items() if "default" in node.rules}


def _absent_when_null(name: str, schema: Schema) -> bool:
    return name not in schema.required and schema.member(name).admits_null
