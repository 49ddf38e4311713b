"""Equivalence of tool calls by typed values under the tool's schema; of messages by their words."""

import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context, ToolCall
from pivotrl_jax.verifiers.matching import Scores, paired
from pivotrl_jax.verifiers.messages import compare_messages
from pivotrl_jax.verifiers.schemas import Schema, parameters
from pivotrl_jax.verifiers.texts import dice, word_ratio
from pivotrl_jax.verifiers.validation import violations
from pivotrl_jax.verifiers.values import canonical, members
from pivotrl_jax.verifiers.verdict import Rules, Verdict

_MAX_CALLS = 64  # the most that an expert makes in one turn of 9,000 is 8
_CALL_TAG = re.compile(r"</?(?:tool_call|function_call)>|<\|python_tag\|>|\[TOOL_CALLS\]")
_CALL_CRITERIA: tuple[str, ...] = ("schema", "required", "arguments", "values", "similarity",
                                   "exact")  # fmt: skip
_CRITERIA: tuple[str, ...] = (
    "well_formed", "kind", "name", "schema", "required", "arguments", "values", "similarity",
    "facts", "question", "exact",
)  # fmt: skip

Accepted = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class TypedCalls(Rules):
    """Compares calls with the expert's, or a message with the expert's message.

    Criteria, each in [0, 1]:
      well_formed  the sample parsed without a problem and every call's arguments are an object
      kind         both call tools, or both are non-blank text without a call
      name         F1 overlap of the tools' names, so surplus and missing calls count
      schema       calls whose arguments break no rule of the tool's schema
      required     share of the required arguments that are present
      arguments    F1 overlap of the arguments' names, defaults of the schema included
      values       share of the arguments, free text aside, whose values are equal (`canonical`)
      similarity   the least similar free-text argument, or the message's similarity
      facts        of a message (`compare_messages`); 1 for calls
      question     of a message; 1 for calls
      exact        equal in everything, free text included
    Expected and sampled calls are paired one to one so that they agree best, or in the order given
    if `ordered` or the fact of that name is true; "schema" to "similarity" are means over the pairs
    and over every call without a partner, which counts 0. What the expert's own call breaks in its
    schema is not held against the sample. `free_text` names arguments whose wording is free. Where
    the context's facts hold "accepted", for every call of the expert a mapping from argument to the
    values that are right, with "" if it may be left out (BFCL's ground truths), each of them counts
    as the expert's own. Text beside calls is not compared.
    """

    free_text: tuple[str, ...] = ("summary", "thought")
    ordered: bool = False
    name = "tool_call"
    criteria = _CRITERIA

    def _verdict(self, expert: Action, sampled: ParsedAction, context: Context) -> Verdict:
        calls = sampled.action.calls
        if reason := unjudgeable(expert):
            return Verdict({}, "", error=reason)
        if problems := problems_of(sampled, expert):
            return self._scores({}, "; ".join(problems))
        scores = {"well_formed": 1.0}
        if not expert.calls and not calls:
            scores |= dict.fromkeys(_CRITERIA[2:], 1.0)
            scores |= compare_messages(expert.text, sampled.action.text, context)
            scores["kind"] = float(bool(sampled.action.text.strip()))
        elif expert.calls and calls:
            scores |= {"kind": 1.0, "facts": 1.0, "question": 1.0}
            scores |= self._compare(expert.calls, calls, context)
        else:
            made = "calls a tool" if calls else "calls no tool"
            return self._scores(scores, f"{made}, unlike the expert")
        failed = [name for name, score in scores.items() if score < 1]
        return self._scores(scores, f"differs in {', '.join(failed)}" if failed else "equal")

    def _compare(
        self, expected: Sequence[ToolCall], actual: Sequence[ToolCall], context: Context
    ) -> dict[str, float]:
        """The tools' names and the criteria of calls, of two non-empty lists of calls."""
        schemas = {call.name: parameters(context.tools, call.name) for call in expected}
        also = context.facts.get("accepted", [{}] * len(expected))

        def compare(numbered: tuple[int, ToolCall], other: tuple[int, ToolCall]) -> Scores:
            (i, a), (_, b) = numbered, other
            return self._pair(a, b, schemas[a.name], also[i]) if a.name == b.name else {}

        lists = list(enumerate(expected)), list(enumerate(actual))
        ordered = self.ordered or is_ordered(context)
        means = paired(*lists, compare, _CALL_CRITERIA, ordered)
        names = dice((call.name for call in expected), (call.name for call in actual))
        return {"name": names, **means, "exact": float(means["exact"] == 1)}

    def _pair(
        self, expected: ToolCall, actual: ToolCall, schema: Schema, accepted: Accepted
    ) -> dict[str, float]:
        """The criteria of calls, of two calls of one tool."""
        forms = [members(call.arguments, schema) for call in (expected, actual)]
        forms[1] = _with_accepted(forms[0], forms[1], accepted, schema)
        missing = [schema.required - set(call.arguments) for call in (expected, actual)]
        broken = violations(actual.arguments, schema)
        broken = broken and broken - violations(expected.arguments, schema)
        asked = len(schema.required - missing[0])
        return {
            "schema": float(not broken),
            "required": 1 - len(missing[1] - missing[0]) / asked if asked else 1.0,
            "arguments": dice(*forms),
            "values": self._equal_values(*forms),
            "similarity": self._similar_texts(*forms),
            "exact": float(forms[0] == forms[1]),
        }

    def _equal_values(self, expected: dict[str, Hashable], actual: dict[str, Hashable]) -> float:
        names = (expected.keys() | actual.keys()) - set(self.free_text)
        absent = object()
        equal = sum(expected.get(name, absent) == actual.get(name) for name in names)
        return equal / len(names) if names else 1.0

    def _similar_texts(self, expected: dict[str, Hashable], actual: dict[str, Hashable]) -> float:
        names = (expected.keys() | actual.keys()) & set(self.free_text)
        return min((_text_ratio(expected.get(n), actual.get(n)) for n in names), default=1.0)


def _with_accepted(
    expected: dict[str, Hashable], actual: dict[str, Hashable], accepted: Accepted, schema: Schema
) -> dict[str, Hashable]:
    """`actual` with the expert's value, or its absence, wherever its own is accepted as well."""
    result = dict(actual)
    for name, values in accepted.items():
        forms = [canonical(value, schema.member(name)) for value in values if value != ""]
        if actual[name] in forms if name in actual else "" in values:
            result.pop(name, None)
            result |= {name: expected[name]} if name in expected else {}
    return result


def is_ordered(context: Context) -> bool:
    """Whether the source says that the order of the turn's calls matters."""
    return context.facts.get("ordered") is True


def unjudgeable(expert: Action) -> str | None:
    """Why no action can be compared with `expert`, if none can."""
    if not expert.calls and not expert.text.strip():
        return "the expert's action is empty"
    if not all(isinstance(call.arguments, dict) for call in expert.calls):
        return "the arguments of an expert's call are not an object"
    return "the expert makes too many calls" if len(expert.calls) > _MAX_CALLS else None


def problems_of(sampled: ParsedAction, expert: Action) -> list[str]:
    """What makes a sample malformed: a tag of a call in its text, too, unless the expert has it."""
    problems = list(sampled.problems)
    if not all(isinstance(call.arguments, dict) for call in sampled.action.calls):
        problems.append("arguments_not_an_object")
    if len(sampled.action.calls) > _MAX_CALLS:
        problems.append(f"{len(sampled.action.calls)} calls")
    if set(_CALL_TAG.findall(sampled.action.text)) - set(_CALL_TAG.findall(expert.text)):
        problems.append("unread_call")
    return list(dict.fromkeys(problems))


def _text_ratio(a: Hashable, b: Hashable) -> float:
    match a, b:
        case (("string", str(text)), ("string", str(other))):
            return word_ratio(text, other)
    return float(a == b)
