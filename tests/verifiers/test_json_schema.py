"""Expectations agree with jsonschema 4.26 under OpenAPI 3.1, which upstream validates with."""

from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.json_schema import equal, fits

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
}
IF = {"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"type": "null"}}

FITTING = [
    ({"city": "Paris"}, CITY),
    ({"city": "Paris", "days": 2.0}, CITY),
    ({"anything": [None]}, {}),
    ([], True),
    (None, {"type": ["null", "string"]}),
    (1, {"type": "number"}),
    (1.0, {"enum": [1]}),
    ({"a": [1, {"b": 2.0}]}, {"const": {"a": [1.0, {"b": 2}]}}),
    ([1, "a", None], {"prefixItems": [{"type": "integer"}], "maxItems": 3}),
    ([1, 2], {"items": {"type": "integer"}, "uniqueItems": True, "contains": {"const": 2}}),
    ([True, 1], {"uniqueItems": True}),
    ("ab", {"pattern": "b$", "minLength": 2, "maxLength": 2}),
    (6, {"multipleOf": 3, "exclusiveMaximum": 7}),
    (1.5, {"multipleOf": 0.5}),
    ("not a date", {"format": "date"}),
    ("x", {"anyOf": [{"type": "null"}, {"type": "string"}]}),
    (3, {"oneOf": [{"type": "string"}, {"minimum": 2}]}),
    (3, {"not": {"type": "string"}}),
    ({"x": 1}, {"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}),
    (10**400, {"type": "integer"}),
    ({"next": {"next": {}}}, TREE),
    (None, IF),
    ("ab", IF),
]  # fmt: skip
NOT_FITTING = [
    ({"city": None}, CITY),
    ({"days": 1}, CITY),
    ({"city": "Paris", "days": 0}, CITY),
    ({"city": "Paris", "days": True}, CITY),
    ({"city": "Paris", "days": 1.5}, CITY),
    ({"city": "Paris", "when": ""}, CITY),
    ([], CITY),
    (None, False),
    (True, {"type": "integer"}),
    (True, {"enum": [1]}),
    (float("nan"), {"type": "integer"}),
    ([1, 1.0], {"uniqueItems": True}),
    ([1, "a"], {"items": {"type": "integer"}}),
    ([1], {"contains": {"const": 2}}),
    ([2, 2], {"contains": {"const": 2}, "maxContains": 1}),
    ([1], {"minItems": 2}),
    ("b", {"pattern": "^a"}),
    ("abc", {"maxLength": 2}),
    (7, {"multipleOf": 3}),
    (7, {"exclusiveMaximum": 7}),
    (7, {"maximum": 6}),
    (1, {"exclusiveMinimum": 1}),
    ("x", {"allOf": [{"type": "string"}, {"minLength": 2}]}),
    (3, {"oneOf": [{"type": "integer"}, {"minimum": 2}]}),
    ("x", {"not": {"type": "string"}}),
    ({"ab": 1}, {"propertyNames": {"maxLength": 1}}),
    ({"a": 1}, {"dependentRequired": {"a": ["b"]}}),
    ({"a": 1}, {"minProperties": 2}),
    ({"next": {"next": 1}}, TREE),
    ("a", IF),
    (1, IF),
]
MALFORMED = [
    {"type": "dict"},
    {"type": []},
    {"properties": {"a": {"type": "any"}}},
    {"properties": []},
    {"required": True},
    {"required": ["a", "a"]},
    {"enum": "abc"},
    {"items": [{"type": "string"}]},
    {"pattern": "("},
    {"anyOf": []},
    {"minLength": -1},
    {"description": 5},
]


@pytest.mark.parametrize(("value", "schema"), FITTING)
def test_fitting(value: Any, schema: Any) -> None:
    assert fits(value, schema)


@pytest.mark.parametrize(("value", "schema"), NOT_FITTING)
def test_not_fitting(value: Any, schema: Any) -> None:
    assert not fits(value, schema)


@pytest.mark.parametrize("schema", MALFORMED)
def test_a_malformed_schema_fits_nothing(schema: Any) -> None:
    assert not fits({}, {"properties": {"unused": schema}})


@pytest.mark.parametrize(
    "schema", [{"unevaluatedProperties": False}, {"$ref": "https://example.org/schema"}]
)
def test_what_cannot_be_judged_is_an_error(schema: Any) -> None:
    with pytest.raises(UserError):
        fits({}, schema)


def test_endless_schemas_and_deep_values_end() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"next": deep}
    with pytest.raises(RecursionError):
        fits({}, {"$ref": "#"})
    with pytest.raises(RecursionError):
        fits(deep, TREE)


def test_equality_of_json_values() -> None:
    assert equal([1, {"a": 1.0}], [1.0, {"a": 1}])
    assert not equal(True, 1)
    assert not equal([0], [False])
    assert not equal("1", 1)
    assert not equal({"a": 1}, {"a": 1, "b": 1})
