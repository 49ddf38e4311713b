"""Does a JSON value fit a tool's declared schema (JSON Schema 2020-12, assertions only)?

`format` and annotations assert nothing, as in upstream's validator. A schema that is itself
malformed fits no value.
"""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.patterns import found

Schema = Mapping[str, Any] | bool

_TYPES: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "null": lambda value: value is None,
        "boolean": lambda value: isinstance(value, bool),
        "string": lambda value: isinstance(value, str),
        "array": lambda value: isinstance(value, list),
        "object": lambda value: isinstance(value, dict),
        "number": lambda value: _is_number(value),
        "integer": lambda value: (
            _is_number(value) and (isinstance(value, int) or value.is_integer())
        ),
    }
)
_UNSUPPORTED = frozenset({"unevaluatedItems", "unevaluatedProperties", "$dynamicRef"})


def fits(value: Any, schema: Schema) -> bool:
    """Whether `value` satisfies `schema`, whose `$ref`s point into itself.

    Raises UserError for a keyword or a pattern that cannot be judged here, RecursionError for
    a schema or a value that is too deep.
    """
    return _well_formed(schema) and _fits(value, schema, schema)


def equal(one: Any, other: Any) -> bool:
    """Equality of JSON values: 1 = 1.0, true is not 1, objects have no order."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _fits(value: Any, schema: Schema, root: Schema) -> bool:
    if isinstance(schema, bool):
        return schema
    if unsupported := _UNSUPPORTED & schema.keys():
        raise UserError(f"a tool's schema uses {min(unsupported)!r}: leave that keyword out of it")
    checks = [_general, _combined]
    if isinstance(value, dict):
        checks.append(_object)
    elif isinstance(value, list):
        checks.append(_array)
    elif isinstance(value, str):
        checks.append(_string)
    elif _is_number(value):
        checks.append(_number)
    return all(check(value, schema, root) for check in checks)


def _general(value: Any, schema: Mapping[str, Any], root: Schema) -> bool:
    types = schema.get("type", ())
    names = [types] if isinstance(types, str) else types
    return (
        (not names or any(_TYPES[name](value) for name in names))
        and ("enum" not in schema or any(equal(value, each) for each in schema["enum"]))
        and ("const" not in schema or equal(value, schema["const"]))
    )


def _combined(value: Any, schema: Mapping[str, Any], root: Schema) -> bool:
    def holds(part: Schema) -> bool:
        return _fits(value, part, root)

    if "if" in schema and not holds(schema.get("then" if holds(schema["if"]) else "else", True)):
        return False
    return (
        ("$ref" not in schema or holds(_resolve(schema["$ref"], root)))
        and all(map(holds, schema.get("allOf", ())))
        and ("anyOf" not in schema or any(map(holds, schema["anyOf"])))
        and ("oneOf" not in schema or sum(map(holds, schema["oneOf"])) == 1)
        and not ("not" in schema and holds(schema["not"]))
    )


def _object(value: dict[str, Any], schema: Mapping[str, Any], root: Schema) -> bool:
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    names, rest = schema.get("propertyNames", True), schema.get("additionalProperties", True)
    for name, child in value.items():
        parts = [properties[name]] if name in properties else []
        parts += [part for pattern, part in patterns.items() if found(pattern, name)]
        if not _fits(name, names, root):
            return False
        if not all(_fits(child, part, root) for part in parts or [rest]):
            return False
    dependent = schema.get("dependentRequired", {})
    required = [*schema.get("required", ())]
    required += [name for given in dependent if given in value for name in dependent[given]]
    schemas = schema.get("dependentSchemas", {})
    return (
        all(name in value for name in required)
        and all(_fits(value, schemas[name], root) for name in schemas if name in value)
        and schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf)
    )


def _array(value: list[Any], schema: Mapping[str, Any], root: Schema) -> bool:
    prefix: Sequence[Schema] = schema.get("prefixItems", ())
    rest = schema.get("items", True)
    parts = [*prefix, *[rest] * (len(value) - len(prefix))]
    if not all(_fits(child, part, root) for child, part in zip(value, parts, strict=False)):
        return False
    if "contains" in schema:
        matches = sum(_fits(child, schema["contains"], root) for child in value)
        if not schema.get("minContains", 1) <= matches <= schema.get("maxContains", math.inf):
            return False
    return schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf) and (
        not schema.get("uniqueItems") or _unique(value)
    )


def _string(value: str, schema: Mapping[str, Any], root: Schema) -> bool:
    return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf) and (
        "pattern" not in schema or found(schema["pattern"], value)
    )


def _number(value: float, schema: Mapping[str, Any], root: Schema) -> bool:
    step = schema.get("multipleOf")
    return (
        value >= schema.get("minimum", -math.inf)
        and value <= schema.get("maximum", math.inf)
        and value > schema.get("exclusiveMinimum", -math.inf)
        and value < schema.get("exclusiveMaximum", math.inf)
        and (step is None or (value / step % 1 if isinstance(step, float) else value % step) == 0)
    )


def _unique(values: list[Any]) -> bool:
    return not any(equal(one, other) for one, other in itertools.combinations(values, 2))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _resolve(reference: str, root: Schema) -> Schema:
    if not reference.startswith("#"):
        raise UserError(f"a tool's schema refers to {reference!r}: put that part into the schema")
    node: Any = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        node = node[int(name)] if isinstance(node, list) else node[name]
    return node


def _is_types(form: Any) -> bool:
    names = form if isinstance(form, list) else [form]
    return bool(names) and _is_names(names) and _TYPES.keys() >= set(names)


def _is_names(form: Any) -> bool:
    is_texts = isinstance(form, list) and all(isinstance(name, str) for name in form)
    return is_texts and len(set(form)) == len(form)


def _is_schemas(form: Any) -> bool:
    return isinstance(form, list) and bool(form) and all(map(_well_formed, form))


def _is_schema_table(form: Any) -> bool:
    return isinstance(form, dict) and all(map(_well_formed, form.values()))


def _is_pattern_table(form: Any) -> bool:
    return _is_schema_table(form) and all(map(_is_pattern, form))


def _is_count(form: Any) -> bool:
    return _TYPES["integer"](form) and form >= 0


def _is_pattern(form: Any) -> bool:
    try:
        return bool(re.compile(form))
    except (TypeError, re.error):
        return False


def _well_formed(schema: Any) -> bool:
    if isinstance(schema, bool):
        return True
    return isinstance(schema, dict) and all(
        is_form(schema[key]) for keys, is_form in _FORMS.items() for key in keys if key in schema
    )


_FORMS: Mapping[tuple[str, ...], Callable[[Any], bool]] = MappingProxyType(
    {
        ("type",): _is_types,
        ("enum", "examples"): _TYPES["array"],
        ("required",): _is_names,
        ("uniqueItems", "deprecated", "readOnly", "writeOnly"): _TYPES["boolean"],
        ("title", "description", "format", "$ref", "$comment", "$id"): _TYPES["string"],
        ("pattern",): _is_pattern,
        ("multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"): _is_number,
        (
            "minLength", "maxLength", "minItems", "maxItems", "minContains", "maxContains",
            "minProperties", "maxProperties",
        ): _is_count,
        ("allOf", "anyOf", "oneOf", "prefixItems"): _is_schemas,
        (
            "items", "additionalProperties", "contains", "propertyNames", "not", "if", "then",
            "else",
        ): _well_formed,
        (
            "properties", "dependentSchemas", "$defs", "definitions",
        ): _is_schema_table,
        ("patternProperties",): _is_pattern_table,
    }
)  # fmt: skip
