"""What an environment is, and what is kept of an episode played in it: text in, text out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float, Int

from pivotrl_jax.trajectories import Action, Message

Split = Literal["train", "validation", "test"]
# Why an episode is over: the environment said so; too many turns; the next turn would not fit the
# row of tokens; an action reached the cap on its tokens.
Ending = Literal["done", "turns", "tokens", "truncated"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One question or game. `group` is what a split never separates; `facts` are the source's."""

    id: str
    group: str
    split: Split
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Feedback:
    """What the environment says: messages to append to the dialogue, and how things stand.

    `score` in [0, 1] is what the episode is worth if it ends here, 1 a success. `valid` is False
    where the environment could make nothing of the action.
    """

    messages: tuple[Message, ...]
    done: bool = False
    score: float = 0.0
    valid: bool = True


class Episode(Protocol):
    """One dialogue with an environment."""

    def step(self, action: Action) -> Feedback:
        """Carries out an action. Never raises for anything that a policy may write."""
        ...

    @property
    def legal(self) -> Sequence[str] | None:
        """The commands that make sense now; None where nobody knows."""
        ...


class Environment(Protocol):
    """`tools` are what the policy may call, as OpenAI function schemas."""

    @property
    def tools(self) -> tuple[dict[str, Any], ...]: ...

    def tasks(self, split: Split) -> Sequence[Task]: ...

    def reset(self, task: Task) -> tuple[Episode, Feedback]:
        """A new episode and how its dialogue opens; the same task always opens alike."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Move:
    """One action of an episode: tokens `start` to `end` of it, the end-of-turn token included
    unless the action was cut off.

    `behaviour` and `plain` are log-probs as in `sampling.Sample`.
    """

    start: int
    end: int
    behaviour: Float[np.ndarray, "S"]
    plain: Float[np.ndarray, "S"]
    malformed: bool
    valid: bool
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Played:
    """One episode: its T tokens (opening, actions, answers, as sampled), its moves, its score.

    Between the moves lie the environment's tokens, which the policy did not choose.
    """

    task: Task
    sample: int
    tokens: Int[np.ndarray, "T"]
    moves: tuple[Move, ...]
    messages: tuple[Message, ...]
    score: float
    ending: Ending
