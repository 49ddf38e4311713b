"""Upstream's verifiers as verifiers of a run, so that its rewards compare with published ones."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from pivotrl_jax.text.parsing import ParsedAction
from pivotrl_jax.trajectories.responses import call_item, to_items, to_tools
from pivotrl_jax.trajectories.schema import NO_CONTEXT, Action, Context, Message
from pivotrl_jax.verifiers.compatible import multi_harness, swe_pivot, terminus, tool_args
from pivotrl_jax.verifiers.compatible.result import Result
from pivotrl_jax.verifiers.verdict import Verdict

COMPATIBLE = ("tool_args", "swe_pivot", "terminus", "multi_harness")
_CRITERIA: tuple[str, ...] = ("reward",)


@dataclasses.dataclass(frozen=True)
class Compatible:
    """One of upstream's verifiers; its reward is the only criterion.

    It sees the sample as the text format parsed it, problems and all: what a malformed call became
    upstream depends on the serving engine's own parser. An exception of upstream's is an error.
    """

    name: str
    score: Callable[[Mapping[str, Any], Any, Any], Result]
    options: Any
    criteria = _CRITERIA

    def __call__(
        self, expert: Action, sampled: ParsedAction, context: Context = NO_CONTEXT
    ) -> Verdict:
        try:
            said = Message("assistant", sampled.action.text, sampled.action.calls)
            result = self.score(row_of(expert, context), to_items([said]), self.options)
        except Exception as error:
            return Verdict({}, "", error=f"{type(error).__name__}: {error}")
        return Verdict({"reward": result.reward}, result.reason)


def row_of(expert: Action, context: Context) -> dict[str, Any]:
    """What upstream's verifiers read of a pivot row."""
    calls = [call_item(call.name, call.arguments) for call in expert.calls]
    action: dict[str, Any] = {"type": "message", "content": expert.text}
    if calls:
        action = calls[0] if len(calls) == 1 else {"type": "function_call_batch", "calls": calls}
    metadata = context.facts.get("metadata")
    named = {"harness": context.facts["harness"]} if "harness" in context.facts else {}
    return {
        **context.facts,
        "responses_create_params": {"tools": to_tools(context.tools)},
        "expected_action": action,
        "expected_answer": None if calls else expert.text,
        "metadata": {**named, **(metadata if isinstance(metadata, dict) else {})},
    }


def compatible(name: str) -> Compatible:
    """`tool_args`, `swe_pivot`, `terminus` or `multi_harness` with upstream's defaults.

    But for terminus, which compares strings only, as for the published Terminal-Pivot rows: there
    the default would need a judge. Raises KeyError for another name.
    """
    made = {
        "tool_args": Compatible(name, tool_args.score, tool_args.Options()),
        "swe_pivot": Compatible(name, swe_pivot.score, swe_pivot.Options()),
        "terminus": Compatible(name, terminus.score, terminus.STRING_ONLY),
        "multi_harness": Compatible(name, multi_harness.score, multi_harness.Options()),
    }
    return made[name]
