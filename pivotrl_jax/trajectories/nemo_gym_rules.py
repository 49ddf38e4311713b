"""What upstream's validator and data-set guide ask of a pivot row."""

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

# Keys of the model call that upstream's types know; any other is refused.
REQUEST_KEYS = frozenset(
    {
        *("background", "include", "input", "instructions", "max_output_tokens", "max_tool_calls"),
        *("metadata", "model", "parallel_tool_calls", "previous_response_id", "prompt"),
        *("reasoning", "service_tier", "store", "stream", "temperature", "text", "tool_choice"),
        *("tools", "top_logprobs", "top_p", "truncation", "user"),
    }
)
ITEM_KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "message": ("role", "content"),
        "reasoning": ("id", "summary"),
        "function_call": ("name", "arguments", "call_id"),
        "function_call_output": ("call_id", "output"),
    }
)
TERMINUS = ("terminus_1", "terminus_2")


def validate(row: Any, batches: bool = False) -> list[str]:
    """What is wrong with a NeMo Gym pivot row; empty if upstream would take it.

    Checks the request, the expected action and the rules against leakage. `batches` accepts
    `function_call_batch`, as the server does and the data-set guide does not.
    """
    if not isinstance(row, dict):
        return ["the row is not an object"]
    problems = [*_agent(row.get("agent_ref")), *_request(row.get("responses_create_params"))]
    if problems:
        return problems
    request = row["responses_create_params"]
    if "expected_action" in row:
        return [*_action(row["expected_action"], request, batches)]
    return [*_answer(row, request)]


def _agent(agent: Any) -> Iterator[str]:
    if not isinstance(agent, dict) or agent.get("type") != "responses_api_agents":
        yield "agent_ref.type is not responses_api_agents"
    elif not isinstance(agent.get("name"), str) or not agent["name"]:
        yield "agent_ref.name is empty"


def _request(request: Any) -> Iterator[str]:
    if not isinstance(request, dict):
        yield "responses_create_params is not an object"
        return
    yield from (f"unknown request key {key}" for key in sorted(set(request) - REQUEST_KEYS))
    yield from (f"request key {key} is null" for key, value in request.items() if value is None)
    if request.get("tool_choice", "auto") != "auto":
        yield "tool_choice is not auto"
    if not isinstance(request.get("parallel_tool_calls", True), bool):
        yield "parallel_tool_calls is not a boolean"
    if request.get("stream", False) is not False:
        yield "stream is not false"
    yield from _tools(request.get("tools"))
    yield from _items(request.get("input"))


def _tools(tools: Any) -> Iterator[str]:
    if not isinstance(tools, list):
        yield "tools is not a list"
        return
    for tool in tools:
        flat = isinstance(tool, dict) and tool.get("type") == "function"
        if not flat or not isinstance(tool.get("name"), str):
            yield "a tool is not a flat function schema with a name"
            continue
        # Upstream's type lets both be null, not absent.
        if not isinstance(tool.get("parameters", ""), dict | None):
            yield f"tool {tool['name']} has no parameters"
        if not isinstance(tool.get("strict", ""), bool | None):
            yield f"tool {tool['name']} does not say whether it is strict"


def _items(items: Any) -> Iterator[str]:
    if not isinstance(items, list) or not items:
        yield "input is not a list of items"
        return
    called: set[Any] = set()
    for item in items:
        kind = str(item.get("type", "message")) if isinstance(item, dict) else ""
        if kind not in ITEM_KEYS:
            yield "an input item has an unknown type"
            return
        yield from (f"a {kind} item lacks {key}" for key in ITEM_KEYS[kind] if key not in item)
        if kind == "function_call":
            called.add(item.get("call_id"))
        elif kind == "function_call_output" and item.get("call_id") not in called:
            yield "a function_call_output answers no call"


def _action(action: Any, request: Mapping[str, Any], batches: bool) -> Iterator[str]:
    kind = action.get("type") if isinstance(action, dict) else None
    last = request["input"][-1]
    if kind == "message":
        if not isinstance(action.get("content"), str):
            yield "expected_action.content is not text"
        if last.get("role") == "assistant" and _said(last) == action.get("content"):
            yield "the expected action stands at the end of input"
    elif kind == "function_call":
        yield from _call(action, request)
    elif kind == "function_call_batch" and batches:
        calls = action.get("calls")
        if not isinstance(calls, list) or not calls:
            yield "expected_action.calls is not a list of calls"
        else:
            yield from (problem for call in calls for problem in _call(call, request))
    else:
        yield f"expected_action.type {kind!r} is not one that is accepted"
    if last.get("type") == "reasoning":
        yield "reasoning stands at the end of input, where it can only be the pivot's own"


def _call(call: Any, request: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(call, dict) or call.get("type") != "function_call":
        yield "an expected call is not a function_call"
        return
    if call.get("name") not in [tool["name"] for tool in request["tools"]]:
        yield "the expected tool is not among the tools"
    try:
        arguments = json.loads(call["arguments"])
    except (KeyError, TypeError, ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        yield "the expected arguments do not decode to an object"
    last = request["input"][-1]
    same = ("name", "arguments")
    if last.get("type") == "function_call" and all(last.get(k) == call.get(k) for k in same):
        yield "the expected action stands at the end of input"


def _answer(row: Mapping[str, Any], request: Mapping[str, Any]) -> Iterator[str]:
    """The rules of rows with a gold text, which is a Terminus turn."""
    answer, metadata = row.get("expected_answer"), row.get("metadata")
    if not isinstance(answer, str) or not answer:
        yield "there is neither expected_action nor expected_answer"
    if not isinstance(metadata, dict) or metadata.get("harness") not in TERMINUS:
        yield f"metadata.harness is none of {', '.join(TERMINUS)}"
    last = request["input"][-1]
    if last.get("role") == "assistant" and _said(last) == answer:
        yield "the expected action stands at the end of input"


def _said(item: Mapping[str, Any]) -> Any:
    content = item.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        return content[0].get("text")
    return content
