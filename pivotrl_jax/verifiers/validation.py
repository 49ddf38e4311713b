"""Which rules of its schema a value breaks.

A bounded subset of JSON Schema, the one that tool schemas use: type, nullable, enum, const,
properties, required, additionalProperties, items, uniqueItems, bounds on numbers and lengths,
anyOf, oneOf, allOf and local references. `pattern` and `format` are not looked at: a tool's author
may write a pattern that takes exponential time on a model's text.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pivotrl_jax.verifiers.schemas import Schema, has_type
from pivotrl_jax.verifiers.values import canonical, same

_MAX_STEPS = 20_000  # nodes of value and schema looked at
_MAX_DEPTH = 64
_BOUNDS: tuple[tuple[str, type | Any, Callable[[Any], Any], Callable[[Any, Any], bool]], ...] = (
    ("minimum", int | float, lambda value: value, operator.ge),
    ("maximum", int | float, lambda value: value, operator.le),
    ("exclusiveMinimum", int | float, lambda value: value, operator.gt),
    ("exclusiveMaximum", int | float, lambda value: value, operator.lt),
    ("minLength", str, len, operator.ge),
    ("maxLength", str, len, operator.le),
    ("minItems", list, len, operator.ge),
    ("maxItems", list, len, operator.le),
)


class _TooMuch(Exception):
    """The value or the schema is too large or too deep to check."""


def violations(value: Any, schema: Schema) -> frozenset[str]:
    """A line for every rule that `value` breaks, such as "flights[0].date: missing"."""
    try:
        return frozenset(_violations(value, schema, "", iter(range(_MAX_STEPS)), 0))
    except _TooMuch:
        return frozenset(["too large to check against its schema"])


def _violations(
    value: Any, schema: Schema, path: str, steps: Iterator[int], depth: int
) -> Iterator[str]:
    if next(steps, None) is None or depth > _MAX_DEPTH:
        raise _TooMuch
    # Authors state defaults outside of the type or the enum: null for a text, say.
    if "default" in schema.rules and same(value, schema.rules["default"]):
        return
    if not has_type(value, schema.types):
        yield f"{path}: not {' or '.join(sorted(schema.types))}"
        return
    yield from (f"{path}: {broken}" for broken in _own_rules(value, schema))
    for node in schema.sequence("allOf"):
        yield from _violations(value, schema.child(node), path, steps, depth + 1)
    for key in ("anyOf", "oneOf"):
        branches = [schema.child(node) for node in schema.sequence(key)]
        # More than one branch of a oneOf may fit: authors rarely mean to forbid that.
        if branches and not any(
            next(_violations(value, branch, path, steps, depth + 1), None) is None
            for branch in branches
        ):
            yield f"{path}: fits no {key}"
    if isinstance(value, Mapping):
        yield from _members(value, schema, path, steps, depth)
    if isinstance(value, list):
        items = schema.items
        for i, item in enumerate(value if items.rules else ()):
            yield from _violations(item, items, f"{path}[{i}]", steps, depth + 1)


def _members(
    value: Mapping[str, Any], schema: Schema, path: str, steps: Iterator[int], depth: int
) -> Iterator[str]:
    prefix = f"{path}." if path else ""
    yield from (f"{prefix}{name}: missing" for name in schema.required - set(value))
    declared = schema.mapping("properties")
    for name, member in value.items():
        if name not in declared and schema.rules.get("additionalProperties") is False:
            yield f"{prefix}{name}: unknown"
            continue
        yield from _violations(member, schema.member(name), f"{prefix}{name}", steps, depth + 1)


def _own_rules(value: Any, schema: Schema) -> Iterator[str]:
    rules = schema.rules
    if "enum" in rules and not any(same(value, each) for each in schema.sequence("enum")):
        yield "not in enum"
    if "const" in rules and not same(value, rules["const"]):
        yield "not the constant"
    for rule, kind, measure, holds in _BOUNDS:
        bound = rules.get(rule)
        if not isinstance(bound, int | float) or isinstance(value, bool):
            continue
        if isinstance(value, kind) and not holds(measure(value), bound):
            yield f"breaks {rule}"
    if rules.get("uniqueItems") is True and isinstance(value, list):
        items = [canonical(item) for item in value]
        if len(set(items)) < len(items):
            yield "items not unique"
