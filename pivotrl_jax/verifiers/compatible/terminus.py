"""terminus_judge: a JSON answer of terminal commands, by schema, similarity and judge."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers import labels
from pivotrl_jax.verifiers.compatible.json_schema import fits
from pivotrl_jax.verifiers.compatible.ratio import ratio
from pivotrl_jax.verifiers.compatible.result import Result
from pivotrl_jax.verifiers.compatible.wire import (
    Output,
    optional_object,
    read_output,
    row_threshold,
)

# The text that a judge writes to the first and the second of two answers. Raises where none came.
Judge = Callable[[str, str], str]


def _closed_object(properties: dict[str, Any], optional: str) -> dict[str, Any]:
    """A schema that allows no other properties and requires all but `optional`."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name != optional],
        "additionalProperties": False,
    }


def _answer(prose: tuple[str, str], command: dict[str, Any], flag: str, optional: str) -> Any:
    properties: dict[str, Any] = {name: {"type": "string"} for name in prose}
    properties["commands"] = {"type": "array", "items": command}
    properties[flag] = {"type": "boolean"}
    return _closed_object(properties, optional)


_STRING, _NUMBER, _BOOLEAN = ({"type": name} for name in ("string", "number", "boolean"))
_COMMAND_1 = _closed_object(
    {"keystrokes": _STRING, "is_blocking": _BOOLEAN, "timeout_sec": _NUMBER}, optional=""
)
_COMMAND_2 = _closed_object({"keystrokes": _STRING, "duration": _NUMBER}, optional="duration")
_FLAGS: Mapping[str, str] = MappingProxyType(
    {"terminus_1": "is_task_complete", "terminus_2": "task_complete"}
)
_SCHEMAS: Mapping[str, Any] = MappingProxyType(
    {
        "terminus_1": _answer(
            ("state_analysis", "explanation"), _COMMAND_1, _FLAGS["terminus_1"], optional=""
        ),
        "terminus_2": _answer(
            ("analysis", "plan"), _COMMAND_2, _FLAGS["terminus_2"], optional="task_complete"
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Upstream's options that decide a verdict; those of the judge's client are unread."""

    unread: ClassVar[tuple[str, ...]] = ("judge_*",)

    enable_string_similarity: bool = False
    string_similarity_threshold: float = 0.95
    enable_llm_judge: bool = True
    check_twice_swap: bool = False
    reward_if_swap_fails: float = 0.0
    judge_equal_label: str = labels.EQUAL
    judge_not_equal_label: str = labels.NOT_EQUAL


# As for the published Terminal-Pivot rows; upstream's defaults would need a judge.
STRING_ONLY = Options(
    enable_string_similarity=True, string_similarity_threshold=0.9, enable_llm_judge=False
)


def score(
    row: Mapping[str, Any], items: Any, options: Options, judge: Judge | None = None
) -> Result:
    """The verdict on Responses output `items`.

    Criteria, as far as they are reached: `schema`, `task_complete`, `similarity`, `judge` (the
    judge's first answer) and `judge_swapped`. Raises UserError for a row or an output that is none
    and where a judge is needed and none is given; what `judge` raises goes through.
    """
    output, metadata = read_output(items), optional_object(row, "metadata")
    gold = _gold(row, metadata)
    text = _text(output)
    if not gold:
        return Result(0.0, "expected_answer_invalid")
    if not text:
        return Result(0.0, "model_output_invalid")
    answer = text.rpartition("</think>")[2].strip()
    expected, sampled = _decoded(gold), _decoded(answer)
    if expected is None:
        return Result(0.0, "expected_answer_invalid")
    if sampled is None:
        return Result(0.0, "model_output_invalid")
    harness = metadata.get("harness")
    if not isinstance(harness, str) or harness not in _SCHEMAS:
        return Result(0.0, "unknown_harness")
    if not _fits(expected, harness):
        return Result(0.0, "expected_answer_invalid")
    criteria: dict[str, float] = {}
    failure = _rules(expected, sampled, harness, criteria)
    if failure or not (options.enable_string_similarity or options.enable_llm_judge):
        return Result(float(not failure), failure or "none", criteria)
    if options.enable_string_similarity:
        criteria["similarity"] = _similarity(expected, sampled)
        if criteria["similarity"] >= row_threshold(row, options.string_similarity_threshold):
            return Result(1.0, "none", criteria)
        if not options.enable_llm_judge:
            return Result(0.0, "string_similarity_below_threshold", criteria)
    if judge is None:
        raise UserError("this row needs a judge: set enable_llm_judge to false or give a judge")
    return _judged(gold, answer, criteria, options, judge)


def _rules(
    expected: dict[str, Any], sampled: dict[str, Any], harness: str, criteria: dict[str, float]
) -> str:
    """The failure of the schema or the completion flag, if any; `criteria` is filled."""
    criteria["schema"] = float(_fits(sampled, harness))
    if not criteria["schema"]:
        return "schema_check_failed"
    flag = _FLAGS[harness]
    criteria["task_complete"] = float(not expected.get(flag) or bool(sampled.get(flag)))
    return "" if criteria["task_complete"] else "task_complete_check_failed"


def _judged(
    gold: str, answer: str, criteria: dict[str, float], options: Options, judge: Judge
) -> Result:
    def ask(first: str, second: str) -> bool | None:
        said = judge(first, second)
        return labels.parse_label(said, options.judge_equal_label, options.judge_not_equal_label)

    equal = ask(gold, answer)
    if equal is None:
        return Result(0.0, "judge_parsing_failed", criteria)
    criteria["judge"] = float(equal)
    if not equal:
        return Result(0.0, "judge_not_equivalent", criteria)
    if not options.check_twice_swap:
        return Result(1.0, "none", criteria)
    equal = ask(answer, gold)
    if equal is None:
        return Result(0.0, "judge_swap_parsing_failed", criteria)
    criteria["judge_swapped"] = float(equal)
    if not equal:
        return Result(options.reward_if_swap_fails, "judge_not_equivalent", criteria)
    return Result(1.0, "none", criteria)


def _gold(row: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    answer = row.get("expected_answer")
    if not isinstance(answer, str | None):
        raise UserError("row.expected_answer is not text: give a string")
    fallback = metadata.get("expected_answer")
    return answer or ("" if fallback is None else str(fallback))


def _text(output: Output) -> str:
    texts = [part.text for message in output.messages for part in message]
    return "\n".join(text for text in texts if text is not None).strip()


def _decoded(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _fits(answer: dict[str, Any], harness: str) -> bool:
    return fits(answer, _SCHEMAS[harness])


def _similarity(expected: dict[str, Any], sampled: dict[str, Any]) -> float:
    gold, own = expected["commands"], sampled["commands"]
    if not gold or not own:
        return float(gold == own)
    return ratio(_keystrokes(gold), _keystrokes(own))


def _keystrokes(commands: list[dict[str, Any]]) -> str:
    return "".join(command["keystrokes"] for command in commands)
