"""An LLM as the judge of functional equivalence."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import NO_CONTEXT, Action, Context
from pivotrl_jax.verifiers.judge import prompt
from pivotrl_jax.verifiers.judge.client import JudgeClient
from pivotrl_jax.verifiers.judge.transport import Failure
from pivotrl_jax.verifiers.many import Question
from pivotrl_jax.verifiers.verdict import Verdict

_CRITERIA: tuple[str, ...] = ("judge",)


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Two shown actions, and what they reply to."""

    expert: str
    sampled: str
    about: str


@dataclasses.dataclass(frozen=True)
class Judge:
    """Asks an endpoint whether the sampled and the expert's action are equivalent, both ways round.

    `judge` is 1 when they are called equal in both orders, 0 when in neither. Judges that prefer
    a side answer the two questions differently; that is an error, or with `disagreement`
    "not_equal" a 0, which spares the second question wherever the first says no. A question
    that fails is an error. Malformed and empty samples score 0 and equal actions 1, unasked.
    The judge sees `max_chars` characters of each action and `context_chars` of the message that
    they reply to.
    """

    client: JudgeClient
    disagreement: Literal["error", "not_equal"] = "error"
    max_chars: int = 8000
    context_chars: int = 2000
    name = "judge"
    criteria = _CRITERIA

    def check(self) -> None:
        """Raises UserError unless the endpoint answers, before a run depends on it."""
        try:
            self.client.ask(prompt.chat("ls", "ls", ""))
        except Failure as failure:
            raise UserError(
                f"the judge at {self.client.settings.url!r} gives no verdict ({failure}): see that "
                f"it serves the model {self.client.settings.model!r}, and mend judge.url, "
                "judge.model or judge.key_variable"
            ) from failure

    def __call__(
        self, expert: Action, sampled: ParsedAction, context: Context = NO_CONTEXT
    ) -> Verdict:
        """An expert's action that is empty or cannot be shown is an error; never raises."""
        return self.many([(expert, sampled, context)])[0]

    def many(self, questions: Sequence[Question]) -> list[Verdict]:
        """The verdicts on `questions`, in their order; those that are alike are asked once.

        They are asked together, `EndpointSettings.concurrency` at a time.
        """
        prepared = [self._prepared(*question) for question in questions]
        pairs = list(dict.fromkeys(each for each in prepared if isinstance(each, _Pair)))
        with ThreadPoolExecutor(self.client.settings.concurrency) as pool:
            verdicts = dict(zip(pairs, pool.map(self._compare, pairs), strict=True))
        return [verdicts[each] if isinstance(each, _Pair) else each for each in prepared]

    def _prepared(self, expert: Action, sampled: ParsedAction, context: Context) -> Verdict | _Pair:
        if not expert.calls and not expert.text.strip():
            return Verdict({}, "", error="the expert's action is empty")
        unfit = prompt.unfit(sampled)
        if unfit is not None:
            return Verdict({"judge": 0.0}, unfit)
        try:
            texts = prompt.shown(expert), prompt.shown(sampled.action)
        except (TypeError, ValueError, RecursionError) as error:
            return Verdict({}, "", error=f"{type(error).__name__}: {error}")
        if texts[0] == texts[1]:
            return Verdict({"judge": 1.0}, "equal")
        first, second = (prompt.clip(text, self.max_chars) for text in texts)
        return _Pair(first, second, prompt.situation(context, self.context_chars))

    def _compare(self, pair: _Pair) -> Verdict:
        try:
            forth = self.client.ask(prompt.chat(pair.expert, pair.sampled, pair.about))
            if not forth and self.disagreement == "not_equal":
                return Verdict({"judge": 0.0}, "judge_not_equivalent")
            back = self.client.ask(prompt.chat(pair.sampled, pair.expert, pair.about))
        except Failure as failure:
            return Verdict({}, "", error=f"judge: {failure}")
        if forth == back:
            reason = "judge_equivalent" if forth else "judge_not_equivalent"
            return Verdict({"judge": float(forth)}, reason)
        if self.disagreement == "not_equal":
            return Verdict({"judge": 0.0}, "judge_disagreement")
        return Verdict({}, "", error="judge: the verdict depends on the order of the answers")
