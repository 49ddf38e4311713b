"""Harmony turns (gpt-oss): messages on the channels analysis, commentary and final.

Source: github.com/openai/harmony, docs/format.md. A turn follows `<|start|>assistant` and ends
with the token `<|call|>` or `<|return|>`, which, as in the other formats, is not part of its text.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from pivotrl_jax.text.parsing import (
    ParsedAction,
    parsed,
    read_arguments,
    to_json,
    verified,
    whole_json,
)
from pivotrl_jax.trajectories.schema import Action, ToolCall

_END = re.compile(r"<\|(?:end|call|return)\|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"(?:^|\s)to=([^\s<]+)")
_START = "<|start|>assistant"
_SPECIAL = ("<|start|>", "<|message|>", "<|channel|>")


@dataclasses.dataclass(frozen=True)
class _Part:
    channel: str
    recipient: str
    content: str


@dataclasses.dataclass(frozen=True)
class Harmony:
    """Thought in `analysis`, then one call in `commentary` or a message in `final`.

    Text beside a call is a preamble: a message of its own in `commentary`. A call ends the turn,
    so there is at most one.
    """

    name: str = dataclasses.field(default="harmony", init=False)

    def print(self, action: Action) -> str:
        """Print as the documentation of the format does."""
        if not action.calls:
            return verified(self, action, f"<|channel|>final<|message|>{action.text}")
        call = action.calls[0]
        preamble = f"<|channel|>commentary<|message|>{action.text}<|end|>{_START}"
        head = f"<|channel|>commentary to=functions.{call.name} <|constrain|>json<|message|>"
        body = to_json(call.arguments)
        return verified(self, action, f"{preamble if action.text else ''}{head}{body}")

    def parse(self, text: str) -> ParsedAction:
        """Read every message; the recipient may stand before or after the channel."""
        problems: list[str] = []
        parts = [part for each in text.split(_START) if (part := _part(each, problems))]
        calls = [_call(part, problems) for part in parts if part.recipient]
        said = [part for part in parts if not part.recipient]
        thoughts = [part.content for part in said if part.channel == "analysis"]
        texts = [part.content for part in said if part.channel != "analysis"]
        problems += _disorder(parts)
        return parsed("\n".join(texts), calls, problems, "\n".join(thoughts))

    def chat(self, action: Action, reasoning: str) -> dict[str, Any]:
        """The turn in parts, as gpt-oss's template wants it: it refuses text with channels.

        The template knows no preamble, so that text beside a call becomes its last thought.
        """
        if not action.calls:
            thinking = {"thinking": reasoning} if reasoning else {}
            return {"role": "assistant", "content": action.text, **thinking}
        call = {"name": action.calls[0].name, "arguments": action.calls[0].arguments}
        thought = "\n".join(each for each in (reasoning, action.text) if each)
        return {"role": "assistant", "content": thought, "tool_calls": [{"function": call}]}


def _part(text: str, problems: list[str]) -> _Part | None:
    if not text.strip():
        return None
    header, opened, rest = text.partition("<|message|>")
    if not opened:
        problems.append("no_channel")
        return _Part("", "", text)
    end = _END.search(rest)
    content, tail = (rest[: end.start()], rest[end.end() :]) if end else (rest, "")
    if tail.strip() or any(token in content for token in _SPECIAL):
        problems.append("text_between_messages")
    channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
    if channel is None:
        problems.append("no_channel")
    elif channel[1] not in ("analysis", "commentary", "final"):
        problems.append("unknown_channel")
    return _Part(channel[1] if channel else "", recipient[1] if recipient else "", content)


def _call(part: _Part, problems: list[str]) -> ToolCall:
    name = part.recipient.removeprefix("functions.")
    if name == part.recipient:
        problems.append("unknown_recipient")
    if part.channel != "commentary":
        problems.append("wrong_channel")
    return ToolCall(name, read_arguments(whole_json(part.content, problems), problems))


def _disorder(parts: Sequence[_Part]) -> list[str]:
    """Problems of the order: a call or the final message comes last, and only once."""
    last = [bool(part.recipient) or part.channel == "final" for part in parts]
    found = [] if any(last) else ["no_action"]
    return found + (["text_after_action"] if any(last[:-1]) else [])
