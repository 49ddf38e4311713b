"""An episode's dialogue as the tokens that a policy reads and writes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from pivotrl_jax.errors import UserError
from pivotrl_jax.text import (
    ActionFormat,
    ChatTemplate,
    Clip,
    ParsedAction,
    RenderSettings,
    Tokenizer,
)
from pivotrl_jax.text.render import chat_between, prompt_text, turn_text
from pivotrl_jax.trajectories import Message


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """How dialogues become tokens and tokens actions; the fields are those of `text.render`."""

    tokenizer: Tokenizer
    template: ChatTemplate
    fmt: ActionFormat
    clip: Clip
    settings: RenderSettings

    def read(self, tokens: Int[np.ndarray, "S"]) -> tuple[str, ParsedAction]:
        """The text of sampled tokens, their end of turn left out, and the action in it."""
        ends = self.tokenizer.ends
        text = self.tokenizer.decode([t for t in tokens.tolist() if t not in ends])
        return text, self.fmt.parse(text)


@dataclasses.dataclass(frozen=True, eq=False)
class Dialogue:
    """A dialogue up to where the policy speaks next: its messages, and what it reads of them.

    `tokens` are those that `text.render` gives an expert's dialogue of the same messages, but that
    the policy's own stay as they were sampled. It may spell a text with other tokens than the
    tokenizer would; encoded anew, they would be tokens that nobody drew, with other log-probs than
    the draw had. `text` is the template's rendering of the messages.
    """

    chat_format: ChatFormat
    tools: Sequence[dict[str, Any]]
    messages: tuple[Message, ...]
    chat: tuple[dict[str, Any], ...]
    text: str
    tokens: Int[np.ndarray, "T"]


def opened(
    chat_format: ChatFormat, tools: Sequence[dict[str, Any]], messages: tuple[Message, ...]
) -> Dialogue:
    """The dialogue before the policy's first turn."""
    chat = _chat(chat_format, messages, 0)
    text = prompt_text(chat, tools, chat_format.template, chat_format.fmt)
    return Dialogue(chat_format, tools, messages, tuple(chat), text, _encoded(text, chat_format))


def continued(
    dialogue: Dialogue,
    sampled: Int[np.ndarray, "S"],
    said: Message,
    answers: tuple[Message, ...],
) -> Dialogue:
    """The dialogue after the policy's tokens, which say `said`, and the answers to them.

    Raises UserError for a template that rewrites what stands before the answers, as Qwen3's does
    with earlier thought: it asks for other tokens than those that the policy has read and written.
    """
    chat_format, tools = dialogue.chat_format, dialogue.tools
    chat, spoken = _spoken(dialogue, said)
    messages = (*dialogue.messages, said, *answers)
    chat = [*chat, *_chat(chat_format, messages, len(dialogue.messages) + 1)]
    text = prompt_text(chat, tools, chat_format.template, chat_format.fmt)
    if spoken is None or not text.startswith(spoken):
        raise UserError(
            "the chat template rewrites earlier turns, so that episodes cannot be played with it: "
            "put a chat_template.jinja that only appends beside the model"
        )
    added = _encoded(text[len(spoken) :], chat_format)
    tokens = np.concatenate([dialogue.tokens, sampled, added]).astype(np.int32)
    return Dialogue(chat_format, tools, messages, tuple(chat), text, tokens)


def ended(
    dialogue: Dialogue, sampled: Int[np.ndarray, "S"], said: Message, answers: tuple[Message, ...]
) -> Dialogue:
    """The dialogue after the policy's last tokens; nobody reads the answers, which have none."""
    return dataclasses.replace(
        dialogue,
        messages=(*dialogue.messages, said, *answers),
        tokens=np.concatenate([dialogue.tokens, sampled]).astype(np.int32),
    )


def _spoken(dialogue: Dialogue, said: Message) -> tuple[list[dict[str, Any]], str | None]:
    """The chat up to a turn of the policy, and its text; None if the template does not append it.

    The turn's text is that of the action read from it. An action that cannot be printed, or spells
    an end of turn, is an empty message here: what the template puts after it is the same.
    """
    chat_format = dialogue.chat_format
    for message in (said, Message("assistant", "")):
        try:
            added = _chat(chat_format, (*dialogue.messages, message), len(dialogue.messages))
        except ValueError:
            continue
        chat = [*dialogue.chat, *added]
        prompt, action, problem = turn_text(
            chat, dialogue.tools, chat_format.template, chat_format.tokenizer, chat_format.fmt
        )
        if problem is None:
            return chat, prompt + action
    return chat, None


def _chat(
    chat_format: ChatFormat, messages: tuple[Message, ...], start: int
) -> list[dict[str, Any]]:
    chat, _ = chat_between(
        messages,
        start,
        len(messages),
        chat_format.tokenizer,
        chat_format.fmt,
        chat_format.clip,
        chat_format.settings,
    )
    return chat


def _encoded(text: str, chat_format: ChatFormat) -> Int[np.ndarray, "T"]:
    return np.asarray(chat_format.tokenizer.encode(text), np.int32)
