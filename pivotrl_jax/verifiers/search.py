"""Equivalence of what search agents do: search, visit, answer."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context, ToolCall
from pivotrl_jax.verifiers.matching import Scores, paired
from pivotrl_jax.verifiers.queries import (
    address,
    answer_words,
    ask_alike,
    named_words,
    query_words,
    subject_words,
)
from pivotrl_jax.verifiers.texts import dice, ratio
from pivotrl_jax.verifiers.tool_call import problems_of, unjudgeable
from pivotrl_jax.verifiers.values import members
from pivotrl_jax.verifiers.verdict import Rules, Verdict

_MAX_QUERIES = 32  # of one call
_MAX_QUERY = 2_000  # characters
_PAIR_CRITERIA: tuple[str, ...] = ("target", "words", "covered", "asked", "similarity", "answer",
                                   "values", "exact")  # fmt: skip
_CRITERIA: tuple[str, ...] = ("well_formed", "kind", "name", *_PAIR_CRITERIA)
_ANSWER_TAGS = re.compile(r"</?answer>")
_EMPHASIS = re.compile(r"\*\*([^*\n]{1,120})\*\*")


@dataclasses.dataclass(frozen=True)
class Part:
    """What one call, or a closing message, asks for."""

    name: str
    queries: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    answer: str = ""
    rest: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Search(Rules):
    """Compares searches, visits and answers with the expert's.

    Criteria, each in [0, 1] and symmetric; where an action has no such part it is 1:
      well_formed  the sample parsed without a problem and every call's arguments are an object
      kind         both call tools, or both are non-blank text
      name         F1 overlap of the tools' names
      target       F1 overlap of the addresses visited (`address`), and of the queries, paired
                   one to one: of the words that either writes with a capital or a digit, since
                   "Oslo population" and "Rome population" share most words but not what they
                   ask; where both write numbers, no more than the overlap of these
      words        of the queries, paired one to one: F1 overlap of their words (`query_words`)
      covered      of the queries, paired likewise: the share of the shorter one's words that the
                   other has (`subject_words`). "Bones in the arm" and "bones in the human arm"
                   may ask the same; "bones in the arm" and "bones in the leg" do not
      asked        of the queries, paired likewise: both negate something or neither does, and they
                   do not ask by different question words (`ask_alike`)
      similarity   Indel similarity of the queries, paired likewise, as sorted words
      answer       the same answer (`answer_words`); of a longer text the F1 overlap of what it
                   sets in bold, for want of anything that is surely the answer
      values       share of the other arguments that are equal, a visit's goal aside
      exact        all of these are 1
    Calls are paired one to one; the criteria from "target" on are means over the pairs and over
    every call without a partner, which counts 0. The arguments are known by their names; a text is
    a list of one.
    """

    queries: tuple[str, ...] = ("query", "queries", "q", "search_query")
    urls: tuple[str, ...] = ("url", "urls", "link")
    answers: tuple[str, ...] = ("answer", "final_answer")
    goals: tuple[str, ...] = ("goal",)
    name = "search"
    criteria = _CRITERIA

    def _verdict(self, expert: Action, sampled: ParsedAction, context: Context) -> Verdict:
        if reason := unjudgeable(expert):
            return Verdict({}, "", error=reason)
        if problems := problems_of(sampled, expert):
            return self._scores({}, "; ".join(problems))
        expected, actual = self._parts(expert), self._parts(sampled.action)
        scores = {"well_formed": 1.0}
        if bool(expert.calls) != bool(sampled.action.calls) or not actual:
            return self._scores(scores, "another kind of action than the expert's")
        names = dice((part.name for part in expected), (part.name for part in actual))
        scores |= {"kind": 1.0, "name": names}
        scores |= paired(expected, actual, _compare, _PAIR_CRITERIA)
        failed = [name for name, score in scores.items() if score < 1]
        return self._scores(scores, f"differs in {', '.join(failed)}" if failed else "equal")

    def _parts(self, action: Action) -> list[Part]:
        if action.calls:
            return [self._part(call) for call in action.calls]
        text = _ANSWER_TAGS.sub("", action.text).strip()
        return [Part("", answer=text)] if text else []

    def _part(self, call: ToolCall) -> Part:
        rest = dict(call.arguments)
        queries, urls, answers = (
            tuple(text for name in names for text in _take_texts(rest, name))
            for names in (self.queries, self.urls, self.answers)
        )
        rest = {name: value for name, value in rest.items() if name not in self.goals}
        return Part(call.name, queries, tuple(map(address, urls)), " ".join(answers), rest)


def _take_texts(arguments: dict[str, Any], name: str) -> list[str]:
    """Removes and returns the texts of an argument; any other value stays where it is."""
    value = arguments.get(name)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return []
    del arguments[name]
    return texts


def _compare(expected: Part, actual: Part) -> Scores:
    """The criteria of a pair; none where the tools differ."""
    if expected.name != actual.name:
        return {}
    rest = members(expected.rest), members(actual.rest)
    scores = {
        "target": dice(set(expected.urls), set(actual.urls))
        * _paired_queries(expected, actual, _same_names),
        "words": _paired_queries(expected, actual, _common_words),
        "covered": _paired_queries(expected, actual, _covered),
        "asked": _paired_queries(expected, actual, ask_alike),
        "similarity": _paired_queries(expected, actual, _sorted_ratio),
        "answer": _same_answer(expected.answer, actual.answer),
        "values": _share(rest[0].items(), rest[1].items()),
    }
    return scores | {"exact": float(all(score == 1 for score in scores.values()))}


def _share(expected: Any, actual: Any) -> float:
    either = {name for name, _ in expected | actual}
    return len(expected & actual) / len(either) if either else 1.0


def _paired_queries(expected: Part, actual: Part, measure: Callable[[str, str], float]) -> float:
    sides = [[query[:_MAX_QUERY] for query in part.queries[:_MAX_QUERIES]]
             for part in (expected, actual)]  # fmt: skip
    if not all(sides):
        return float(not any(sides))
    if max(len(expected.queries), len(actual.queries)) > _MAX_QUERIES:
        return float(expected.queries == actual.queries)
    found = paired(sides[0], sides[1], lambda a, b: {"score": measure(a, b)}, ("score",))
    return found["score"]


def _common_words(expected: str, actual: str) -> float:
    return dice(query_words(expected), query_words(actual))


def _same_names(expected: str, actual: str) -> float:
    names = named_words(expected) | named_words(actual)
    shared = [names.intersection(query_words(query)) for query in (expected, actual)]
    numbers = [{name for name in side if any(map(str.isdigit, name))} for side in shared]
    # Another year is another question, though most names agree.
    return min(dice(*shared), dice(*numbers) if all(numbers) else 1.0)


def _covered(expected: str, actual: str) -> float:
    sides = [set(subject_words(query)) for query in (expected, actual)]
    fewest = min(map(len, sides))
    return len(sides[0] & sides[1]) / fewest if fewest else float(sides[0] == sides[1])


def _sorted_ratio(expected: str, actual: str) -> float:
    return ratio(*(" ".join(sorted(query_words(query))) for query in (expected, actual)))


def _same_answer(expected: str, actual: str) -> float:
    if answer_words(expected) == answer_words(actual):
        return 1.0
    emphasised = [
        {tuple(answer_words(span)) for span in _EMPHASIS.findall(text)}
        for text in (expected, actual)
    ]
    return dice(*emphasised) if any(emphasised) else 0.0
