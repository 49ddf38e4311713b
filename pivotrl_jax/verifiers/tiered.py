"""Rules first, and a judge only where they leave the question open."""

import dataclasses
import difflib
from collections.abc import Sequence

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import NO_CONTEXT, Action, Context
from pivotrl_jax.verifiers.judge import Judge
from pivotrl_jax.verifiers.many import Question, verify_many
from pivotrl_jax.verifiers.verdict import Verdict, Verifier

Conditions = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Tiered:
    """The criteria of `rules`, then `judge`: 0 where they reject, 1 where they accept, else asked.

    The rules reject when any (criterion, threshold) of `reject` holds (value <= threshold), and
    accept when every one of `accept` does (value >= threshold); an empty `accept` never does. So
    `(("judge", 1.0),)` is a recipe for the whole, and one that names other criteria as well makes
    the judge's word count for less. An error of the rules stays one, unasked.
    """

    rules: Verifier
    judge: Judge
    accept: Conditions = ()
    reject: Conditions = ()

    def __post_init__(self) -> None:
        for criterion, _ in (*self.accept, *self.reject):
            if criterion not in self.rules.criteria:
                nearest = difflib.get_close_matches(criterion, self.rules.criteria, 1, 0.0)[0]
                raise UserError(
                    f"verifier {self.rules.name!r} has no criterion {criterion!r} to decide by: "
                    f"use one of {', '.join(self.rules.criteria)} (nearest is {nearest!r})"
                )

    @property
    def name(self) -> str:
        return f"{self.rules.name}+judge"

    @property
    def criteria(self) -> tuple[str, ...]:
        return (*self.rules.criteria, *self.judge.criteria)

    def __call__(
        self, expert: Action, sampled: ParsedAction, context: Context = NO_CONTEXT
    ) -> Verdict:
        return self.many([(expert, sampled, context)])[0]

    def many(self, questions: Sequence[Question]) -> list[Verdict]:
        """The verdicts on `questions`, in their order; the judge is asked about them together."""
        ruled = verify_many(self.rules, questions)
        settled = [self._settled(verdict) for verdict in ruled]
        left = [q for q, verdict in zip(questions, settled, strict=True) if verdict is None]
        answers = iter(self.judge.many(left))
        return [
            _joined(rules, next(answers)) if verdict is None else verdict
            for rules, verdict in zip(ruled, settled, strict=True)
        ]

    def _settled(self, rules: Verdict) -> Verdict | None:
        """The whole verdict where the rules decide or fail, None where they do not."""
        scores = rules.criteria
        if rules.error is not None:
            return rules
        if any(scores[name] <= threshold for name, threshold in self.reject):
            return _joined(rules, Verdict({"judge": 0.0}, "rules_reject"))
        if self.accept and all(scores[name] >= threshold for name, threshold in self.accept):
            return _joined(rules, Verdict({"judge": 1.0}, "rules_accept"))
        return None


def _joined(rules: Verdict, judge: Verdict) -> Verdict:
    if judge.error is not None:
        return judge
    reason = "; ".join(filter(None, (rules.reason, judge.reason)))
    return Verdict({**rules.criteria, **judge.criteria}, reason)
