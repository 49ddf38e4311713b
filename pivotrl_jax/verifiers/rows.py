"""A NeMo-Gym pivot row and a Responses output in this package's own terms."""

from collections.abc import Iterator, Mapping
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.parsing import ParsedAction, decode_json, parsed, split_reasoning
from pivotrl_jax.trajectories.nemo_gym import nemo_gym_pivot
from pivotrl_jax.trajectories.parsing import BadRow
from pivotrl_jax.trajectories.schema import Action, Context, ToolCall


def expert_turn(row: Mapping[str, Any]) -> tuple[Action, Context]:
    """The gold action of a pivot row and what it answers, as `nemo_gym_pivot` reads them.

    A row may leave the model call out. Raises UserError for one that cannot be read.
    """
    try:
        trajectory = nemo_gym_pivot({"responses_create_params": {"input": []}, **row}, "row")
    except BadRow as problem:
        raise UserError(
            f"field 'row' is no pivot row ({problem}): give one that "
            "`python -m pivotrl_jax.trajectories inspect` reads"
        ) from None
    at = len(trajectory.messages) - 1
    return trajectory.messages[at].action, trajectory.before(at)


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
