"""A NeMo-Gym pivot row and a Responses output in this package's own terms."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.parsing import ParsedAction, decode_json, parsed, split_reasoning
from pivotrl_jax.trajectories.parsing import ROLES
from pivotrl_jax.trajectories.schema import Action, Context, Message, ToolCall

_FACTS = ("threshold", "harness", "metadata")


def expert_action(row: Mapping[str, Any]) -> Action:
    """The gold action: `expected_action`, else `expected_answer`, else either in `metadata`.

    An answer that is no function call in JSON is the assistant's text. Raises UserError where none
    of them is there or readable.
    """
    for owner in (row, row.get("metadata")):
        if not isinstance(owner, Mapping):
            continue
        if owner.get("expected_action"):
            return _action(owner["expected_action"])
        if answer := owner.get("expected_answer"):
            if not isinstance(answer, str):
                raise UserError("row.expected_answer is not text: give a string")
            return _answer(answer)
    raise UserError("the row has no expected_action and no expected_answer: give one")


def sampled_action(items: Any) -> ParsedAction:
    """The action in Responses output `items`; never raises.

    Text is what follows the reasoning, messages joined by newlines. Whatever is not an ordinary
    call with an object of arguments or an assistant's text is a problem, named as `text.actions`
    names it; "unknown_item" and "not_text" exist here only. Reasoning items are no action.
    """
    problems: list[str] = []
    texts: list[str] = []
    calls: list[ToolCall] = []
    if not isinstance(items, list):
        problems.append("not_a_list")
        items = []
    for item in items:
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind is None:
            problems.append("not_an_object")
        elif kind == "function_call":
            calls.extend(_sampled_call(item, problems))
        elif kind == "message" and item.get("role", "assistant") == "assistant":
            texts.append(_sampled_text(item.get("content"), problems))
        elif kind != "reasoning":
            problems.append("unknown_item")
    reasoning, text, found = split_reasoning("\n".join(texts))
    return parsed(text, calls, problems + found, reasoning)


def context(row: Mapping[str, Any]) -> Context:
    """The row's history, its tools as OpenAI function schemas and its facts.

    Facts are `threshold`, `harness` and `metadata`, those the row has; `declared_tools` beat the
    tools of the model call. Raises UserError for a history or a tool that is not readable.
    """
    params = row.get("responses_create_params") or {}
    if not isinstance(params, Mapping):
        raise UserError("row.responses_create_params is not an object: give the model call")
    declared = row.get("declared_tools")
    tools = params.get("tools") if declared is None else declared
    return Context(
        history=tuple(_messages(params.get("input") or ())),
        tools=tuple(_tool(tool) for tool in _list(tools or (), "the row's tools")),
        facts={name: row[name] for name in _FACTS if row.get(name) is not None},
    )


def _action(action: Any) -> Action:
    kind = action.get("type") if isinstance(action, dict) else None
    if kind == "message" and isinstance(action.get("content"), str):
        return Action(action["content"])
    if kind == "function_call":
        return Action("", (_call(action, "row.expected_action"),))
    if kind == "function_call_batch" and action.get("calls"):
        calls = _list(action["calls"], "row.expected_action.calls")
        return Action("", tuple(_call(call, "row.expected_action.calls") for call in calls))
    raise UserError(
        "row.expected_action is no message, function_call or function_call_batch: give its type "
        "and its content, name and arguments, or calls"
    )


def _answer(answer: str) -> Action:
    value, end = decode_json(answer, 0, [])
    is_call = isinstance(value, dict) and value.get("type") == "function_call"
    return _action(value) if is_call and end == len(answer) else Action(answer)


def _call(call: Any, where: str) -> ToolCall:
    name = call.get("name") if isinstance(call, dict) else None
    if not isinstance(name, str) or not name:
        raise UserError(f"a call in {where} has no name: give the tool's")
    arguments = call.get("arguments")
    problems: list[str] = []
    if isinstance(arguments, str):
        arguments = _decoded(arguments, problems)
    if problems or not isinstance(arguments, dict):
        raise UserError(f"the arguments of {name!r} in {where} are no JSON object: give one")
    return ToolCall(name, arguments)


def _sampled_call(item: Mapping[str, Any], problems: list[str]) -> Iterator[ToolCall]:
    name, arguments = item.get("name"), item.get("arguments")
    if not isinstance(name, str) or not name:
        problems.append("missing_name")
        return
    if not isinstance(arguments, str):
        problems.append("not_text")
    else:
        arguments = _decoded(arguments, problems)
        if not isinstance(arguments, dict):
            problems.append("arguments_not_an_object")
    yield ToolCall(name, arguments)


def _decoded(text: str, problems: list[str]) -> Any:
    """The JSON value that is all of `text`; `text` itself where it holds none, or one too deep."""
    found: list[str] = []
    value, end = decode_json(text.strip(), 0, found)
    if end < len(text.strip()):
        found.append("bad_json")
    problems.extend(found)
    return text if {"bad_json", "too_deep"}.intersection(found) else value


def _sampled_text(content: Any, problems: list[str]) -> str:
    parts = content if isinstance(content, list) else [{"type": "output_text", "text": content}]
    texts = []
    for part in parts:
        is_text = isinstance(part, dict) and part.get("type") == "output_text"
        if is_text and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            problems.append("not_text")
    return "".join(texts)


def _messages(items: Any) -> Iterator[Message]:
    """Messages of Responses input items; one assistant turn is one message.

    A turn is its reasoning, its text and its calls, in this order, each possibly missing.
    """
    if isinstance(items, str):
        yield Message("user", items)
        return
    turn: list[dict[str, Any]] = []
    for item in _list(items, "row.responses_create_params.input"):
        if not isinstance(item, dict):
            raise UserError("row.responses_create_params.input holds no objects: give its items")
        if turn and (not _of_assistant(item) or _rank(item) < _rank(turn[-1])):
            yield _turn(turn)
            turn = []
        if _of_assistant(item):
            turn.append(item)
        else:
            yield _message(item)
    if turn:
        yield _turn(turn)


def _of_assistant(item: Mapping[str, Any]) -> bool:
    return item.get("type") in ("reasoning", "function_call") or item.get("role") == "assistant"


def _rank(item: Mapping[str, Any]) -> int:
    return {"reasoning": 0, "function_call": 2}.get(str(item.get("type")), 1)


def _turn(items: list[dict[str, Any]]) -> Message:
    reasoning = [_text(item.get("summary")) for item in items if _rank(item) == 0]
    return Message(
        "assistant",
        "\n".join(_text(item.get("content")) for item in items if _rank(item) == 1),
        calls=tuple(_call(item, "the row's input") for item in items if _rank(item) == 2),
        reasoning="\n".join(reasoning) if reasoning else None,
    )


def _message(item: Mapping[str, Any]) -> Message:
    if item.get("type") == "function_call_output":
        return Message("tool", _text(item.get("output")))
    role = ROLES.get(str(item.get("role")))
    if role is None:
        raise UserError(f"the row's input has an item of role {str(item.get('role'))[:40]!r}")
    return Message(role, _text(item.get("content")))


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _tool(tool: Any) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UserError("one of the row's tools has no name: give function schemas")
    kept = {name: value for name, value in function.items() if name != "type"}
    return {"type": "function", "function": kept}


def _list(value: Any, where: str) -> Iterable[Any]:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} are not a list: give one")
    return value
