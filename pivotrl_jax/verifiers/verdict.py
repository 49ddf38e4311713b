"""What a verifier says about one action."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Protocol

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import NO_CONTEXT, Action, Context


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Named criteria in [0, 1], or the reason why there are none.

    An error is not a reward of zero: it takes the sample out of its group.
    """

    criteria: Mapping[str, float]
    reason: str
    error: str | None = None


class Verifier(Protocol):
    """Functional equivalence of a sampled and an expert action in one domain."""

    @property
    def name(self) -> str: ...

    @property
    def criteria(self) -> tuple[str, ...]: ...

    def __call__(
        self, expert: Action, sampled: ParsedAction, context: Context = NO_CONTEXT
    ) -> Verdict:
        """The verdict on an action sampled in `context`, where the expert's was `expert`."""


class Rules(abc.ABC):
    """What verifiers that compare by rules share.

    One has `criteria` and a method `_verdict`; whatever that raises becomes an error of the sample,
    for nobody foresees all that a model writes.
    """

    criteria: tuple[str, ...]

    def __call__(
        self, expert: Action, sampled: ParsedAction, context: Context = NO_CONTEXT
    ) -> Verdict:
        """An expert's action that cannot be judged is an error; never raises."""
        try:
            return self._verdict(expert, sampled, context)
        except Exception as error:
            return Verdict({}, "", error=f"{type(error).__name__}: {error}")

    @abc.abstractmethod
    def _verdict(self, expert: Action, sampled: ParsedAction, context: Context) -> Verdict:
        """The verdict; may raise."""

    def _scores(self, scores: Mapping[str, float], reason: str) -> Verdict:
        """A verdict in which what is not scored is 0."""
        return Verdict({name: scores.get(name, 0.0) for name in self.criteria}, reason)
