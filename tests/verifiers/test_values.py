"""Typed equality of JSON values under a schema, and what breaks a schema."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.verifiers.schemas import ANYTHING, Schema, parameters
from pivotrl_jax.verifiers.validation import violations
from pivotrl_jax.verifiers.values import canonical, same

COLOURS = {"type": "array", "items": {"enum": ["red", "green"]}}
UNIQUE = {"type": "array", "uniqueItems": True}
OPTIONAL = {"properties": {"unit": {"type": "string", "default": "km"}}}
NULLABLE = {"properties": {"note": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}
DEFAULTED = {"properties": {"note": {"type": ["string", "null"], "default": "none"}}}
NESTED = {"properties": {"page": {"type": "dict", **OPTIONAL}}}


def schema(node: dict[str, Any]) -> Schema:
    return Schema(node, node)


@pytest.mark.parametrize(
    ("a", "b", "node", "equal"),
    [
        (1, 1.0, {}, True),
        (10**30, 1e30, {}, False),
        (0, -0.0, {}, True),
        (1, True, {}, False),
        (0, False, {}, False),
        (None, False, {}, False),
        ("1", 1, {}, False),
        ("None", None, {}, False),
        (math.nan, math.nan, {}, False),
        (math.inf, math.inf, {}, False),
        ([math.nan], [math.nan], {}, False),
        ("caf\u00e9", "cafe\u0301", {}, True),
        (" Paris\n", "Paris", {}, True),
        ("Paris", "paris", {}, False),
        ("a  b", "a b", {}, False),
        ([1, 2], [2, 1], {}, False),
        ([1, 2], [2.0, 1], UNIQUE, True),
        ([1, 1, 2], [1, 2, 2], UNIQUE, False),
        (["red", "green"], ["green", "red"], COLOURS, True),
        (["red", "red"], ["red"], COLOURS, False),
        (["red", "green"], ["green", "red"], {"type": "array", "items": {"type": "string"}}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1.0}, {}, True),
        ({"a": 1}, {"a": 1, "b": None}, {}, False),
        ([], {}, {}, False),
        ({}, {"unit": "km"}, OPTIONAL, True),
        ({}, {"unit": "m"}, OPTIONAL, False),
        ({}, {"unit": "km"}, {**OPTIONAL, "required": ["unit"]}, False),
        ({"page": {}}, {"page": {"unit": "km"}}, NESTED, True),
        ({}, {"note": None}, NULLABLE, True),
        ({}, {"note": ""}, NULLABLE, False),
        ({}, {"note": None}, DEFAULTED, False),
        ({}, {"note": "none"}, DEFAULTED, True),
        ({}, {"note": None}, {**NULLABLE, "required": ["note"]}, False),
        ({}, {"note": None}, {"properties": {"note": {"type": "string"}}}, False),
        ({}, {"note": None}, {"properties": {"note": {"nullable": True, "type": "string"}}}, True),
    ],
)
def test_equality(a: Any, b: Any, node: dict[str, Any], equal: bool) -> None:
    assert same(a, b, schema(node)) == equal
    assert same(b, a, schema(node)) == equal


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)  # fmt: skip


@given(JSON, JSON)
def test_equality_is_reflexive_symmetric_and_survives_printing(a: Any, b: Any) -> None:
    assert same(a, a)
    assert same(a, json.loads(json.dumps(a)))
    assert same(a, b) == same(b, a)
    assert not same(a, [a])


def test_what_is_nested_too_deep_equals_nothing() -> None:
    deep: Any = 0
    for _ in range(50_000):
        deep = [deep]
    assert not same(deep, deep)
    assert violations(deep, schema({"items": {"$ref": "#"}}))


ADDRESS = {
    "type": "object",
    "properties": {
        "zip": {"type": "string", "minLength": 5},
        "floor": {"type": "integer", "minimum": 0, "maximum": 9},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
        "kind": {"enum": ["home", "work"], "default": "any"},
        "owner": {"$ref": "#/$defs/owner"},
        "size": {"anyOf": [{"type": "number"}, {"enum": ["small"]}]},
    },
    "required": ["zip"],
    "additionalProperties": False,
    "$defs": {"owner": {"type": "object", "required": ["name"]}},
}


@pytest.mark.parametrize(
    ("value", "broken"),
    [
        ({"zip": "77242"}, set()),
        ({"zip": 77242}, {"zip: not string"}),
        ({}, {"zip: missing"}),
        ({"zip": "77242", "x": 1}, {"x: unknown"}),
        ({"zip": "7"}, {"zip: breaks minLength"}),
        ({"zip": "77242", "floor": 3.0}, set()),
        ({"zip": "77242", "floor": 3.5}, {"floor: not integer"}),
        ({"zip": "77242", "floor": True}, {"floor: not integer"}),
        ({"zip": "77242", "floor": 10}, {"floor: breaks maximum"}),
        ({"zip": "77242", "floor": None}, {"floor: not integer"}),
        ({"zip": "77242", "tags": ["a", "c"]}, {"tags[1]: not in enum"}),
        ({"zip": "77242", "tags": ["a", "a"]}, {"tags: items not unique"}),
        ({"zip": "77242", "kind": "any"}, set()),
        ({"zip": "77242", "kind": "hotel"}, {"kind: not in enum"}),
        ({"zip": "77242", "owner": {}}, {"owner.name: missing"}),
        ({"zip": "77242", "size": 3}, set()),
        ({"zip": "77242", "size": "large"}, {"size: fits no anyOf"}),
        ([], {": not object"}),
    ],
)
def test_violations_of_a_schema(value: Any, broken: set[str]) -> None:
    assert violations(value, schema(ADDRESS)) == broken


@pytest.mark.parametrize(
    ("value", "kind", "holds"),
    [
        ({}, "dict", True), ([], "dict", False),
        ([], "tuple", True), (1, "float", True), (1.5, "float", True), ("1", "float", False),
        (True, "float", False), (True, "boolean", True), (1, "boolean", False),
        ("x", "any", True), (1, "any", True), ("x", "STRING", True), (2, ["string", "null"], False),
        (None, ["string", "null"], True), (1, "HashMap", False), (1, "no such type", True),
    ],
)  # fmt: skip
def test_types_of_several_dialects(value: Any, kind: Any, holds: bool) -> None:
    assert (not violations(value, schema({"type": kind}))) == holds


@pytest.mark.parametrize(
    "node",
    [
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"allOf": [{"$ref": "#"}] * 9, "items": {"$ref": "#"}},
        {"pattern": "(a+)+$", "type": "string"},
        {"properties": 3, "required": "x", "items": 7, "enum": 5, "type": {"a": 1}},
        {"$ref": "#/nowhere/at/all"},
    ],
)
def test_odd_schemas_are_applied(node: dict[str, Any]) -> None:
    for value in ("a" * 100_000 + "b", [[["x"]]] * 1000, {"a": [1] * 100_000}):
        violations(value, schema(node))
        canonical(value, schema(node))


def test_a_tool_is_found_by_name_wrapped_or_not() -> None:
    node = {"type": "object", "required": ["a"]}
    tools = ({"type": "function", "function": {"name": "f", "parameters": node}},
             {"name": "g", "parameters": node})  # fmt: skip
    assert parameters(tools, "f") == parameters(tools, "g") == schema(node)
    assert parameters(tools, "h") == ANYTHING
