"""Reader of the Berkeley Function Calling Leaderboard: prompts with reference answers."""

import ast
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pivotrl_jax.trajectories.parsing import (
    BadRow,
    call,
    entries,
    message,
    objects,
    tools,
    trajectory,
)
from pivotrl_jax.trajectories.schema import Message, ToolCall, Trajectory

# The benchmark's names of types that JSON Schema calls otherwise; "any" is no constraint at all.
TYPES: Mapping[str, str] = MappingProxyType({"dict": "object", "float": "number", "tuple": "array"})
MAX_CALL_CHARS = 20_000
_OMITTED = ""


def bfcl(row: Mapping[str, Any], source: str) -> Trajectory:
    """A single-turn task (`messages`, `functions`) or a multi-turn one (`turns`, `tools`).

    The expert's turns are the reference calls. Single-turn: of the accepted values the first, and
    no argument that may be omitted; facts "accepted", the benchmark's list. Multi-turn: the calls
    of each user turn as one assistant turn, without results, for the source has none; facts
    "initial_config". Raises BadRow, "no_reference_answer" where no call is expected.
    """
    if "turns" in row:
        return _multi_turn(row, source)
    answers = row.get("ground_truth")
    if not answers:
        raise BadRow("no_reference_answer")
    own_tools = tools([_schema(each) for each in objects(row.get("functions"), "malformed_tools")])
    made = tuple(_accepted_call(answer) for answer in objects(answers, "malformed_ground_truth"))
    messages = [message(entry) for entry in entries(row, "messages")]
    facts = {"accepted": answers}
    return trajectory(
        row, source, [*messages, Message("assistant", "", made)], "tool_use", own_tools, facts
    )


def parsed_call(text: str, schemas: Iterable[Mapping[str, Any]] = ()) -> ToolCall:
    """The call in a string such as `mv(source='a', destination='b')`, read as literals only.

    Positional arguments take the names of the parameters in `schemas`, in order. Raises BadRow.
    """
    try:
        node = ast.parse(text[: MAX_CALL_CHARS + 1], mode="eval").body
        if len(text) > MAX_CALL_CHARS or not isinstance(node, ast.Call):
            raise ValueError("not one short call")
        name = ast.unparse(node.func)
        names = _parameters(name, schemas)[: len(node.args)]
        named = [(each.arg, each.value) for each in node.keywords]
        # Strict, so that a positional argument without a name is an error.
        pairs = [*zip(names, node.args, strict=True), *named]
        if not all(isinstance(key, str) for key, _ in pairs):
            raise ValueError("unpacked arguments")
        return call(name, {key: _json(ast.literal_eval(value)) for key, value in pairs})
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise BadRow("malformed_ground_truth") from None


def _multi_turn(row: Mapping[str, Any], source: str) -> Trajectory:
    turns, answers = row["turns"], row.get("ground_truth")
    if not isinstance(turns, list) or not isinstance(answers, list) or len(turns) != len(answers):
        raise BadRow("malformed_ground_truth")
    schemas = tools([_schema(each) for each in objects(row.get("tools"), "malformed_tools")])
    messages: list[Message] = []
    for asked, stated in zip(turns, answers, strict=True):
        messages += [message(entry) for entry in objects(asked, "malformed_message")]
        # No reference call means that something is missing; the source has no words for that.
        if not isinstance(stated, list):
            raise BadRow("malformed_ground_truth")
        if stated:
            made = tuple(parsed_call(str(each), schemas) for each in stated)
            messages.append(Message("assistant", "", made))
    plain = {key: value for key, value in row.items() if key != "tools"}
    facts = {"initial_config": row.get("initial_config")}
    return trajectory(plain, source, messages, "tool_use", schemas, facts)


def _schema(function: Mapping[str, Any]) -> dict[str, Any]:
    """An OpenAI function schema of the benchmark's dialect; one that is already so is kept."""
    if "function" in function:
        return dict(function)
    kept = {key: value for key, value in function.items() if key != "response"}
    parameters = _typed(kept.get("parameters", {}))
    return {"type": "function", "function": {**kept, "parameters": parameters}}


def _typed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_typed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: value for key, value in schema.items() if (key, value) != ("type", "any")}
    return {
        key: TYPES.get(value, value) if key == "type" and isinstance(value, str) else _typed(value)
        for key, value in kept.items()
    }


def _accepted_call(answer: Mapping[str, Any]) -> ToolCall:
    if len(answer) != 1:
        raise BadRow("malformed_ground_truth")
    ((name, accepted),) = answer.items()
    if not isinstance(accepted, dict):
        raise BadRow("malformed_ground_truth")
    return call(name, _first_accepted(accepted))


def _first_accepted(accepted: Any) -> Any:
    """The value with every list of accepted values under a key replaced by its first."""
    if isinstance(accepted, list):
        return [_first_accepted(each) for each in accepted]
    if not isinstance(accepted, dict):
        return accepted
    needed = {
        key: values
        for key, values in accepted.items()
        if not isinstance(values, list) or (values and _OMITTED not in values)
    }
    return {
        key: _first_accepted(values[0] if isinstance(values, list) else values)
        for key, values in needed.items()
    }


def _parameters(name: str, schemas: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    for schema in schemas:
        function = schema.get("function", schema)
        if function.get("name") == name:
            return list(function.get("parameters", {}).get("properties", {}))
    return []


def _json(value: Any) -> Any:
    """A Python literal as JSON would hold it; ValueError if it cannot."""
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _json(each) for key, each in value.items()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{type(value).__name__} has no JSON form")
