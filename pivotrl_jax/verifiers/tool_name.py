"""Equality of the tool's name, the verifier of the paper's software-engineering domain."""

import dataclasses

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import NO_CONTEXT, Action, Context
from pivotrl_jax.verifiers.verdict import Verdict

_CRITERIA: tuple[str, ...] = ("well_formed", "kind", "name")


@dataclasses.dataclass(frozen=True)
class ToolName:
    """Compares the names of the called tools and nothing else.

    `kind` is 1 when the sample calls a tool at all, `name` when the names are the expert's,
    whatever their order. Where the only tool is `bash`, as in mini-swe-agent, every well-formed
    sample passes and no turn is a pivot; use `Command` there.
    """

    name = "tool_name"
    criteria = _CRITERIA

    def __call__(
        self, expert: Action, sampled: ParsedAction, context: Context = NO_CONTEXT
    ) -> Verdict:
        """Malformed output scores 0 throughout; an expert action without a call is an error."""
        if not expert.calls:
            return Verdict({}, "", error="the expert's action calls no tool")
        if sampled.problems:
            return Verdict(dict.fromkeys(self.criteria, 0.0), "; ".join(sampled.problems))
        expected = sorted(call.name for call in expert.calls)
        actual = sorted(call.name for call in sampled.action.calls)
        scores = (1.0, float(bool(actual)), float(actual == expected))
        reason = "same tools" if actual == expected else f"calls {actual}, expert {expected}"
        return Verdict(dict(zip(self.criteria, scores, strict=True)), reason)
