"""What every reader produces and every later stage consumes."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Facts = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class ToolCall:
    """One call of a tool. `arguments` is decoded JSON (normally an object)."""

    name: str
    arguments: Any


@dataclasses.dataclass(frozen=True)
class Action:
    """One assistant turn: free text, then zero or more tool calls."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()


@dataclasses.dataclass(frozen=True)
class Message:
    """One message of a dialogue.

    `calls` is filled on assistant messages only; `reasoning` is hidden thought that a source
    stores apart from `content`; `failed` marks a tool result that reports an error, and `answers`
    is the number of the call of the turn before that a result is of, where that is not the call
    after the one that the result before it is of.
    """

    role: Role
    content: str
    calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    failed: bool = False
    answers: int | None = None

    @property
    def action(self) -> Action:
        return Action(self.content, self.calls)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """An expert's whole dialogue with an environment.

    `source` is "file:line"; `tools` are OpenAI function schemas; `task_id` groups trajectories
    of one task, so that a split never separates them. `facts` is what a source states beside the
    dialogue and a verifier may ask for, by name: the record's database, a row's threshold.
    `pivots` are the messages that may become candidates, each with facts of its own, which come
    before the trajectory's; None means every assistant message.
    """

    id: str
    messages: tuple[Message, ...]
    task_id: str
    domain: str
    source: str
    tools: tuple[dict[str, Any], ...] = ()
    reward: float | None = None
    facts: Facts = dataclasses.field(default_factory=dict)
    pivots: Mapping[int, Facts] | None = None

    def before(self, message: int) -> "Context":
        """What the policy knows when it writes messages[message], and the facts about that turn."""
        own = (self.pivots or {}).get(message, {})
        return Context(self.messages[:message], self.tools, {**self.facts, **own})


@dataclasses.dataclass(frozen=True)
class Context:
    """What an action is an answer to: the dialogue so far, the tools, the record's facts."""

    history: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    facts: Facts = dataclasses.field(default_factory=dict)


NO_CONTEXT = Context()


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One assistant turn (s_t, a*_t) of a trajectory (paper section 3, D_cand).

    `message` is the index of the expert's message, so the history is `messages[:message]`;
    `turn` counts assistant turns from 0.
    """

    id: str
    trajectory_id: str
    turn: int
    message: int
    split: Literal["train", "heldout"]
