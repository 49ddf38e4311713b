"""terminal_multi_harness: declared schema, then the harness's rule for the tool."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.harness_rules import MATCH, rule
from pivotrl_jax.verifiers.compatible.json_schema import fits
from pivotrl_jax.verifiers.compatible.result import Result
from pivotrl_jax.verifiers.compatible.wire import (
    OUTPUT_TEXT,
    PLAIN,
    Call,
    Output,
    optional_object,
    read_expected,
    read_output,
    row_threshold,
)

_CONTAINERS: dict[str, type] = {"array": list, "object": dict}


@dataclasses.dataclass(frozen=True)
class Options:
    """Upstream's options; the `unread` ones are read by nothing there either."""

    unread: ClassVar[tuple[str, ...]] = (
        "floating_point_comparison_threshold",
        "ignored_argument_keys_by_tool",
        "word_count_similarity_threshold",
    )
    string_similarity_threshold: float = 0.9


@dataclasses.dataclass(frozen=True)
class _Case:
    """What a row fixes for every call: the harness, the threshold and the declared schemas."""

    harness: str
    threshold: float
    schemas: Mapping[str, Mapping[str, Any]]


def score(row: Mapping[str, Any], items: Any, options: Options) -> Result:
    """The verdict on Responses output `items`.

    Criteria, as far as they are reached: `kind`, and of calls `schema`, `name`, `keys` and
    `similarity` (the least of a batch). Raises UserError for a row or an output that is none, and
    for arguments that are no JSON object, where upstream raises too.
    """
    expected, output = read_expected(row), read_output(items)
    text = _text(output)
    if not output.calls and text is None:
        return Result(0.0, "NO_ACTION_FOUND")
    case = _Case(
        harness=_harness(row),
        threshold=row_threshold(row, options.string_similarity_threshold),
        schemas=_schemas(row),
    )
    if expected.kind != _kind(output):
        return Result(0.0, "ACTION_TYPE_MISMATCH", {"kind": 0.0})
    criteria = {"kind": 1.0}
    if expected.kind == "message":
        blank = not text or not text.strip()
        reason = "EMPTY_MESSAGE" if blank else "EXPECTED_CHAT_MESSAGE_FOUND"
        return Result(float(not blank), reason, criteria)
    if expected.kind == "function_call":
        category = _compare(expected.calls[0], output.calls[0], case, criteria)
    elif len(expected.calls) != len(output.calls):
        category = "FUNCTION_CALL_BATCH_LENGTH_DIFFERENT"
    else:
        category = _compare_sorted(expected.calls, output.calls, case, criteria)
    return Result(float(category in (MATCH, "EXPECTED_TOOL_CALL_BATCH")), category, criteria)


def _compare_sorted(
    expected: tuple[Call, ...], actual: tuple[Call, ...], case: _Case, criteria: dict[str, float]
) -> str:
    """Pairwise after sorting by name and canonical arguments; `ordered` is read by nothing."""
    for one, other in zip(sorted(expected, key=_key), sorted(actual, key=_key), strict=True):
        if (category := _compare(one, other, case, criteria)) != MATCH:
            return category
    return "EXPECTED_TOOL_CALL_BATCH"


def _compare(expected: Call, actual: Call, case: _Case, criteria: dict[str, float]) -> str:
    gold = _arguments(expected, "row.expected_action")
    own = _arguments(actual, "output")
    schema = case.schemas.get(actual.name)
    if schema is None:
        criteria["schema"] = 0.0
        return "TOOL_SCHEMA_NOT_FOUND"
    own = _coerced(own, schema)
    criteria["schema"] = float(_fits(own, schema))
    if not criteria["schema"]:
        return "TOOL_SCHEMA_VALIDATION_FAILED"
    criteria["name"] = float(expected.name == actual.name)
    if not criteria["name"]:
        return "UNEXPECTED_TOOL"
    criteria["keys"] = float(own.keys() <= gold.keys())
    if not criteria["keys"]:
        return "UNEXPECTED_ARGUMENT_KEYS"
    harness_rule = rule(case.harness, expected.name)
    if harness_rule is None:
        return MATCH
    found = harness_rule(gold, own, case.threshold)
    if found.similarity is not None:
        criteria["similarity"] = min(found.similarity, criteria.get("similarity", 1.0))
    return found.category


def _arguments(call: Call, where: str) -> dict[str, Any]:
    arguments = _decoded(call.arguments)
    if arguments is None:
        raise UserError(
            f"the arguments of {call.name[:80]!r} in {where} are no JSON object: upstream raises "
            "here too, so leave such samples out"
        )
    return arguments


def _decoded(arguments: str) -> dict[str, Any] | None:
    try:
        value = json.loads(arguments)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _key(call: Call) -> tuple[str, str]:
    value = _decoded(call.arguments)
    if value is None:
        return call.name, call.arguments
    return call.name, json.dumps(value, sort_keys=True, separators=(",", ":"))


def _coerced(arguments: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` with JSON text decoded where the schema declares an array or an object."""
    properties = schema.get("properties")
    coerced = dict(arguments)
    for name, declared in (properties if isinstance(properties, dict) else {}).items():
        value = arguments.get(name)
        if not isinstance(value, str) or not isinstance(declared, dict):
            continue
        try:
            decoded = json.loads(value)
        except json.JSONDecodeError:
            continue
        wanted = declared.get("type")
        if isinstance(wanted, str) and isinstance(decoded, _CONTAINERS.get(wanted, ())):
            coerced[name] = decoded
    return coerced


def _fits(arguments: dict[str, Any], schema: Mapping[str, Any]) -> bool:
    try:
        return fits(arguments, schema)
    except UserError:
        raise
    except Exception:  # as upstream: whatever goes wrong in validation is a failed validation
        return False


def _kind(output: Output) -> str:
    kinds = ("message", "function_call", "function_call_batch")
    return kinds[min(len(output.calls), 2)]


def _text(output: Output) -> str | None:
    parts = [part for message in output.messages for part in message]
    texts = [part.text for part in parts if part.kind in (OUTPUT_TEXT, PLAIN)]
    return "".join(text for text in texts if text is not None) if texts else None


def _harness(row: Mapping[str, Any]) -> str:
    harness = row.get("harness", "generic")
    if not isinstance(harness, str):
        raise UserError("row.harness is not text: give the harness's name")
    return harness


def _schemas(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Parameter schemas by tool, of `declared_tools` or else of the tools in the model call."""
    tools = row.get("declared_tools")
    if tools is None:
        tools = optional_object(row, "responses_create_params").get("tools") or []
    if not isinstance(tools, list):
        raise UserError("the row's tools are not a list: give tool schemas")
    schemas: dict[str, Mapping[str, Any]] = {}
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        declared = function if isinstance(function, dict) else tool
        if not isinstance(declared, dict):
            continue
        name, schema = declared.get("name"), declared.get("parameters")
        if isinstance(name, str) and isinstance(schema, dict):
            schemas[name] = schema
    return schemas
