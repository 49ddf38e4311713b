"""What a chat says of its tools where the chat template does not."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pivotrl_jax.text.parsing import ActionFormat

_CALL = '{"name": <function name>, "arguments": <object of its arguments>}'

_CALLS: Mapping[str, str] = MappingProxyType(
    {
        "hermes": f"a JSON object in tags:\n<tool_call>\n{_CALL}\n</tool_call>",
        "smollm2": f"a JSON list of calls in tags:\n<tool_call>[{_CALL}]</tool_call>",
        "json": f"JSON and no other text:\n{_CALL}",
        "llama3": f"JSON and no other text:\n{_CALL.replace('arguments', 'parameters', 1)}",
    }
)
# The other formats belong to one agent each, whose own prompt explains its tools.
_TOLD = frozenset({*_CALLS, "harmony"})

_TAGS = "<tool_response>\n{}\n</tool_response>"
_RESULTS: Mapping[str, str] = MappingProxyType(
    {"hermes": _TAGS, "smollm2": _TAGS, "webdancer": _TAGS, "react": "Observation: {}"}
)


def told(fmt: ActionFormat, tools: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The tools that a chat with actions in `fmt` has to state."""
    return tools if fmt.name in _TOLD else ()


def with_tools(
    chat: Sequence[dict[str, Any]], tools: Sequence[Mapping[str, Any]], fmt: ActionFormat
) -> list[dict[str, Any]]:
    """Chat whose system message ends with the tools' schemas and how `fmt` calls them."""
    if not tools or fmt.name not in _CALLS:
        return list(chat)
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = (
        f"You may call these functions:\n<tools>\n{listed}\n</tools>\nA call is {_CALLS[fmt.name]}"
    )
    if chat[0]["role"] == "system":
        return [chat[0] | {"content": f"{chat[0]['content']}\n\n{text}"}, *chat[1:]]
    return [{"role": "system", "content": text}, *chat]


def as_user(result: str, fmt: ActionFormat) -> str:
    """A tool's result as a message of the user, marked as `fmt`'s models know it."""
    return _RESULTS.get(fmt.name, "{}").replace("{}", result, 1)
