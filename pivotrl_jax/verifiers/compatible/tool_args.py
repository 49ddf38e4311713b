"""single_step_tool_use_with_argument_comparison: typed comparison of tool calls."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.result import Result
from pivotrl_jax.verifiers.compatible.wire import (
    OUTPUT_TEXT,
    PLAIN,
    Call,
    Output,
    read_expected,
    read_output,
)

_MATCH = ""  # the reason of a comparison that found no difference


@dataclasses.dataclass(frozen=True)
class Options:
    """Upstream's comparator options; the word threshold, which has no default there, is 0.1 in
    its conversational and function-calling configs and 0.0 in the SWE one.
    """

    word_count_similarity_threshold: float = 0.1
    floating_point_comparison_threshold: float = 1e-6
    parallel_tool_call_rewarding: bool = False
    allow_subset: bool = False
    allow_superset: bool = False
    parallel_tool_call_reward_mode: str = dataclasses.field(
        default="binary_strict", metadata={"choices": ("binary_strict", "fractional", "f1")}
    )


def score(row: Mapping[str, Any], items: Any, options: Options) -> Result:
    """The verdict on Responses output `items`.

    Criteria: `kind` (a call where one is expected, else a message) and `calls`, the share of the
    expected calls that are matched. Raises an exception where upstream does: UserError for a row
    or an output that is none, ValueError for expected arguments that are not JSON.
    """
    expected, output = read_expected(row), read_output(items)
    if expected.kind == "function_call_batch" and not expected.calls:
        raise UserError("row.expected_action.calls is empty: give at least one call")
    says_something = _says_something(output)
    if not output.calls and not says_something:
        return Result(0.0, "NO_ACTION_FOUND", {"kind": 0.0})
    if not expected.calls:
        if output.calls:
            return Result(0.0, "NO_EXPECTED_CHAT_MESSAGE", {"kind": 0.0})
        return Result(1.0, "EXPECTED_CHAT_MESSAGE_FOUND", {"kind": 1.0})
    if not output.calls:
        return Result(0.0, "NO_EXPECTED_TOOL_CALL", {"kind": 0.0})
    if len(expected.calls) == len(output.calls) == 1:
        difference = _compare_call(expected.calls[0], output.calls[0], options)
        return _result(float(not difference), difference or "EXPECTED_TOOL_CALL", not difference)
    return _score_calls(expected.calls, output.calls, options)


def _says_something(output: Output) -> bool:
    """Whether any message has a text part, be it empty."""
    for message in output.messages:
        for part in message:
            if part.kind == PLAIN:
                raise UserError("a message's content is text: give a list of parts")
            if part.kind == OUTPUT_TEXT:
                return True
    return False


def _result(reward: float, reason: str, matched: float) -> Result:
    return Result(reward, reason, {"kind": 1.0, "calls": float(matched)})


def _score_calls(expected: Sequence[Call], actual: Sequence[Call], options: Options) -> Result:
    if not _admissible(len(expected), len(actual), options):
        return _result(0.0, "FUNCTION_CALL_BATCH_LENGTH_DIFFERENT", 0.0)
    table = [[_compare_call(one, other, options) for other in actual] for one in expected]
    matched = _maximum_matching(table)
    reward = _reward(len(matched), len(expected), len(actual), options)
    share = len(matched) / len(expected)
    if reward == 1.0:
        single = len(expected) == 1
        return _result(
            reward, "EXPECTED_TOOL_CALL" if single else "EXPECTED_TOOL_CALL_BATCH", share
        )
    unmatched = [index for index in range(len(expected)) if index not in matched]
    if not unmatched or len(matched) == len(actual):
        return _result(reward, "FUNCTION_CALL_BATCH_LENGTH_DIFFERENT", share)
    return _result(reward, _nearest_miss(table[unmatched[0]]), share)


def _admissible(expected: int, actual: int, options: Options) -> bool:
    if expected == actual or not options.parallel_tool_call_rewarding:
        return True
    return options.allow_subset if actual < expected else options.allow_superset


def _reward(matched: int, expected: int, actual: int, options: Options) -> float:
    if not options.parallel_tool_call_rewarding:
        return float(matched == expected)
    if options.parallel_tool_call_reward_mode == "f1":
        return 2 * matched / (expected + actual)
    required = min(expected, actual) if options.allow_subset else expected
    if options.parallel_tool_call_reward_mode == "fractional":
        return matched / required
    return float(matched == required)


def _nearest_miss(reasons: Sequence[str]) -> str:
    """Why one expected call found no partner: the first reason beyond the tool's name."""
    misses = [reason for reason in reasons if reason not in (_MATCH, "UNEXPECTED_TOOL")]
    return misses[0] if misses else "UNEXPECTED_TOOL"


def _maximum_matching(table: Sequence[Sequence[str]]) -> set[int]:
    """The expected calls of a maximum bipartite matching (Kuhn), most constrained ones first.

    Which calls stay unmatched decides the reported reason, so the order is upstream's.
    """
    candidates = [
        [index for index, reason in enumerate(reasons) if reason == _MATCH] for reasons in table
    ]
    partner: dict[int, int] = {}

    def augment(expected: int, visited: set[int]) -> bool:
        for actual in candidates[expected]:
            if actual in visited:
                continue
            visited.add(actual)
            if actual not in partner or augment(partner[actual], visited):
                partner[actual] = expected
                return True
        return False

    for expected in sorted(range(len(candidates)), key=lambda index: len(candidates[index])):
        augment(expected, set())
    return set(partner.values())


def _compare_call(expected: Call, actual: Call, options: Options) -> str:
    if expected.name != actual.name:
        return "UNEXPECTED_TOOL"
    wanted = json.loads(expected.arguments)
    try:
        given = json.loads(actual.arguments)
    except json.JSONDecodeError:
        return "ARGUMENTS_DECODE_ERROR"
    return _compare(wanted, given, options)


def _compare(expected: Any, actual: Any, options: Options) -> str:
    """The first difference of two JSON values, driven by the type of the expected one."""
    # A bool is an int in Python, and so to upstream: expected 1 matches true, not the reverse.
    if not isinstance(actual, type(expected)):
        return "ARGUMENT_VALUE_TYPE_DIFFERENT"
    if isinstance(expected, dict):
        if expected.keys() != actual.keys():
            return "ARGUMENT_OBJECT_KEYS_DIFFERENT"
        return _first_difference(expected.values(), [actual[key] for key in expected], options)
    if isinstance(expected, list):
        if len(expected) != len(actual):
            return "ARGUMENT_LIST_LENGTH_DIFFERENT"
        return _first_difference(expected, actual, options)
    if isinstance(expected, float):
        same = abs(actual - expected) < options.floating_point_comparison_threshold
    elif isinstance(expected, str):
        same = _same_words(expected, actual, options.word_count_similarity_threshold)
    else:
        same = expected == actual
    return _MATCH if same else "ARGUMENT_VALUE_DIFFERENT"


def _first_difference(expected: Any, actual: Any, options: Options) -> str:
    for one, other in zip(expected, actual, strict=True):
        if difference := _compare(one, other, options):
            return difference
    return _MATCH


def _same_words(expected: str, actual: str, threshold: float) -> bool:
    """Shared words over all words of both, so that identical texts score 0.5, the most there is.

    Texts of a single word must be equal to the letter.
    """
    one, other = Counter(expected.lower().split()), Counter(actual.lower().split())
    if one.total() < 2 or other.total() < 2:
        return expected == actual
    return (one & other).total() / (one.total() + other.total()) >= threshold
