"""Many verdicts at once, for verifiers whose answers have to be waited for."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context
from pivotrl_jax.verifiers.verdict import Verdict, Verifier

Question = tuple[Action, ParsedAction, Context]  # the expert's action, the sampled one, where


@runtime_checkable
class Batched(Protocol):
    """A verifier that answers many questions together."""

    def many(self, questions: Sequence[Question]) -> list[Verdict]: ...


def verify_many(verifier: Verifier, questions: Sequence[Question]) -> list[Verdict]:
    """The verdicts of `verifier` on `questions`, in their order; together where it can."""
    if isinstance(verifier, Batched):
        return verifier.many(questions)
    return [verifier(*question) for question in questions]
