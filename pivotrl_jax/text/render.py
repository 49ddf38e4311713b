"""Trajectories to token trunks with the exact span of every assistant action."""

import collections
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pivotrl_jax.text.harmony import Harmony
from pivotrl_jax.text.parsing import ActionFormat
from pivotrl_jax.text.templates import ChatTemplate
from pivotrl_jax.text.tokenizer import Tokenizer
from pivotrl_jax.text.tools import as_user, told, with_tools
from pivotrl_jax.trajectories.schema import Message, Trajectory


@dataclasses.dataclass(frozen=True)
class Clip:
    """How many tokens a message keeps at most; None keeps all, assistant messages keep all.

    `task` limits each message up to the first user message, `observation` each later message of
    a user or tool.
    """

    observation: int | None = None
    task: int | None = None


@dataclasses.dataclass(frozen=True)
class RenderSettings:
    """What the template is given: the role of tool results, and hidden thought or not.

    `tool_role` "user" is for templates that know no other: the format marks the results, and what
    the user says in a row is one message, since many of these templates ask that roles alternate.
    With `reasoning` "keep" the template still decides which earlier thought stays.
    """

    tool_role: Literal["tool", "user"] = "tool"
    reasoning: Literal["keep", "drop"] = "drop"


@dataclasses.dataclass(frozen=True)
class Span:
    """`trunk.tokens[start:end]` is assistant message `message` with its end-of-turn token."""

    message: int
    start: int
    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class Trunk:
    """Tokens (int32) that end with the last span; `tokens[:span.start]` is a span's history."""

    tokens: np.ndarray
    spans: tuple[Span, ...]


@dataclasses.dataclass(frozen=True)
class Rendering:
    """Trunks of one trajectory, tokens clipped from their messages, turns left out by reason."""

    trunks: tuple[Trunk, ...]
    clipped_tokens: int
    left_out: Mapping[str, int]


@dataclasses.dataclass
class _Draft:
    text: str
    tokens: list[int]
    spans: list[Span]


def render(
    trajectory: Trajectory,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    fmt: ActionFormat,
    clip: Clip,
    max_tokens: int,
    settings: RenderSettings = RenderSettings(),
) -> Rendering:
    """Render every assistant turn whose history and action fit into `max_tokens`.

    Turns share a trunk while the template only appends; where it rewrites the history (drops old
    reasoning, say) the turn opens a further trunk. Text is encoded piece by piece, cut at the
    places where sampling starts and ends, so a history's tokens are those a sampler would hold.
    Turns are left out as "no_history", "template_not_appending", "no_end_of_turn",
    "end_of_turn_inside", or with all later ones as "unprintable_action" and "too_long".
    """
    turns = [i for i, message in enumerate(trajectory.messages) if message.role == "assistant"]
    left_out: collections.Counter[str] = collections.Counter()
    drafts: list[_Draft] = []
    chat: list[dict[str, Any]] = []
    seen_clipped = clipped_tokens = start = 0
    for number, turn in enumerate(turns):
        try:
            added, dropped = chat_between(
                trajectory.messages, start, turn + 1, tokenizer, fmt, clip, settings
            )
        except ValueError:
            left_out["unprintable_action"] += len(turns) - number
            break
        chat += added
        start = turn + 1
        seen_clipped += dropped
        prompt, action, problem = turn_text(chat, trajectory.tools, template, tokenizer, fmt)
        if problem:
            left_out[problem] += 1
        elif _place(drafts, turn, prompt, action, tokenizer, max_tokens):
            clipped_tokens = seen_clipped
        else:
            left_out["too_long"] += len(turns) - number
            break
    trunks = tuple(Trunk(np.asarray(d.tokens, np.int32), tuple(d.spans)) for d in drafts)
    return Rendering(trunks, clipped_tokens, dict(left_out))


def to_chat(
    message: Message, fmt: ActionFormat, settings: RenderSettings = RenderSettings()
) -> dict[str, Any]:
    """Message as a chat template expects it; ValueError if `fmt` cannot print its action."""
    if message.role == "tool" and settings.tool_role == "user":
        return {"role": "user", "content": as_user(message.content, fmt)}
    if message.role != "assistant":
        return {"role": message.role, "content": message.content}
    content = fmt.print(message.action)
    reasoning = message.reasoning if settings.reasoning == "keep" else None
    if isinstance(fmt, Harmony):
        return fmt.chat(message.action, reasoning or "")
    if reasoning:
        content = f"<think>\n{reasoning}\n</think>\n\n{content}"
    return {"role": "assistant", "content": content}


def clip_text(text: str, limit: int | None, tokenizer: Tokenizer) -> tuple[str, int]:
    """Text with the middle of its tokens left out, and how many; a line says so in their place.

    The `limit` tokens that stay are divided between head and tail; the line comes on top.
    """
    ids = [] if limit is None else tokenizer.encode(text)
    if limit is None or len(ids) <= limit:
        return text, 0
    head, tail = ids[: limit - limit // 2], ids[len(ids) - limit // 2 :]
    dropped = len(ids) - limit
    # A cut inside a character's bytes decodes to a replacement sign at the cut.
    before = tokenizer.decode(head).rstrip("\ufffd")
    after = tokenizer.decode(tail).lstrip("\ufffd")
    return f"{before}\n[... {dropped} tokens left out ...]\n{after}", dropped


def chat_between(
    messages: Sequence[Message],
    start: int,
    stop: int,
    tokenizer: Tokenizer,
    fmt: ActionFormat,
    clip: Clip,
    settings: RenderSettings,
) -> tuple[list[dict[str, Any]], int]:
    """Chat of messages[start:stop] after clipping, and the number of clipped tokens.

    Raises ValueError where `fmt` cannot print an action.
    """
    roles = [message.role for message in messages]
    first_user = roles.index("user") if "user" in roles else 0
    chat: list[dict[str, Any]] = []
    clipped = 0
    for index in range(start, stop):
        message = messages[index]
        if message.role != "assistant":
            limit = clip.task if index <= first_user else clip.observation
            content, dropped = clip_text(message.content, limit, tokenizer)
            message = dataclasses.replace(message, content=content)
            clipped += dropped
        entry = to_chat(message, fmt, settings)
        if settings.tool_role == "user" and chat and chat[-1]["role"] == entry["role"] == "user":
            chat[-1]["content"] += f"\n\n{entry['content']}"
        else:
            chat.append(entry)
    return chat, clipped


def turn_text(
    chat: list[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    fmt: ActionFormat,
) -> tuple[str, str, str | None]:
    """Prompt and action text of the chat's last message, or the reason why there are none."""
    if len(chat) == 1:
        return "", "", "no_history"
    ends = re.compile("|".join(re.escape(tokenizer.decode([end])) for end in tokenizer.ends))
    if ends.search(json.dumps(chat[-1], ensure_ascii=False)):
        return "", "", "end_of_turn_inside"
    chat, tools = _telling_of(tools, chat, template, fmt)
    prompt, said = _appended(chat, tools, template)
    if said is None:
        # gpt-oss's template leaves out earlier thought as soon as it sees a final message, so that
        # the message does not append; after the dialogue's opening alone it does.
        _, said = _appended(_opening(chat), tools, template)
    if said is None:
        return "", "", "template_not_appending"
    ended = ends.search(said)
    if ended is None:
        return "", "", "no_end_of_turn"
    return prompt, said[: ended.end()], None


def prompt_text(
    chat: list[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    template: ChatTemplate,
    fmt: ActionFormat,
) -> str:
    """What the policy reads before it says the message that follows the chat."""
    chat, tools = _telling_of(tools, chat, template, fmt)
    return template.render(chat, tools, add_generation_prompt=True)


def _telling_of(
    tools: Sequence[Mapping[str, Any]],
    chat: list[dict[str, Any]],
    template: ChatTemplate,
    fmt: ActionFormat,
) -> tuple[list[dict[str, Any]], Sequence[Mapping[str, Any]]]:
    """The chat and the tools that the template is given: one of them says what there is."""
    tools = told(fmt, tools)
    return (chat if template.takes_tools else with_tools(chat, tools, fmt)), tools


def _appended(
    chat: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], template: ChatTemplate
) -> tuple[str, str | None]:
    """Prompt of the last message and what it adds; None if it changes the prompt, too."""
    prompt = template.render(chat[:-1], tools, add_generation_prompt=True)
    full = template.render(chat, tools)
    return prompt, full[len(prompt) :] if full.startswith(prompt) else None


def _opening(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages up to the first of the user, and the last message."""
    roles = [message["role"] for message in chat[:-1]]
    first_user = roles.index("user") if "user" in roles else 0
    return [*chat[: first_user + 1], chat[-1]]


def _place(
    drafts: list[_Draft], turn: int, prompt: str, action: str, tokenizer: Tokenizer, max_tokens: int
) -> bool:
    """Extend the last draft, or open one, with a turn; False, and nothing done, if too long."""
    extends = bool(drafts) and prompt.startswith(drafts[-1].text)
    base = drafts[-1] if extends else _Draft("", [], [])
    history = tokenizer.encode(prompt[len(base.text) :])
    span = tokenizer.encode(action)
    start = len(base.tokens) + len(history)
    if start + len(span) > max_tokens:
        return False
    base.text = prompt + action
    base.tokens += history + span
    base.spans.append(Span(turn, start, start + len(span)))
    if not extends:
        drafts.append(base)
    return True
