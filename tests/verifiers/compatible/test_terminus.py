"""terminus: each case named after the row of upstream's observed semantics it comes from."""

import json
from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.terminus import Options, score

NO_GOLD, NO_OUTPUT = "expected_answer_invalid", "model_output_invalid"
SCHEMA, DONE = "schema_check_failed", "task_complete_check_failed"
BELOW = "string_similarity_below_threshold"
STRINGS = Options(enable_string_similarity=True, enable_llm_judge=False)
NEITHER = Options(enable_llm_judge=False)


def table(names: str, cases: list[Any]) -> Any:
    return pytest.mark.parametrize(
        names, [case[1:] for case in cases], ids=[case[0] for case in cases]
    )


def two(*keystrokes: str, **more: Any) -> dict[str, Any]:
    commands = [{"keystrokes": keys, "duration": 0.1} for keys in keystrokes]
    return {"analysis": "a", "plan": "p", "commands": commands, **more}


def one(*keystrokes: str, done: Any = False, **command: Any) -> dict[str, Any]:
    rest = {"is_blocking": True, "timeout_sec": 1.0, **command}
    return {
        "state_analysis": "s",
        "explanation": "e",
        "commands": [{"keystrokes": keys, **rest} for keys in keystrokes],
        "is_task_complete": done,
    }


def without(answer: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != key}


def row(gold: Any, harness: Any = "terminus_2", **more: Any) -> dict[str, Any]:
    text = gold if isinstance(gold, str) else json.dumps(gold)
    return {"expected_answer": text, "metadata": {"harness": harness}, **more}


def say(*answers: Any) -> list[dict[str, Any]]:
    texts = [each if isinstance(each, str) else json.dumps(each) for each in answers]
    parts = [{"type": "output_text", "text": text} for text in texts]
    return [{"type": "message", "role": "assistant", "content": parts}]


LS = two("ls -la\n")
TEXT = json.dumps(LS)
CALL = {"type": "function_call", "name": "answer", "arguments": TEXT}
REASONING = {"type": "reasoning", "summary": []}

# (where the case comes from, row, output, reason) with similarity at 0.95 and no judge
VERDICTS = [
    ("2.3 the same", row(LS), say(LS), "none"),
    ("2.3 step 1: no gold", {"metadata": {"harness": "terminus_2"}}, say(LS), NO_GOLD),
    ("2.3 step 1: empty gold", row(""), say(LS), NO_GOLD),
    ("2.3 step 1 before 2", {}, [], NO_GOLD),
    ("2.3 step 2: no output", row(LS), [], NO_OUTPUT),
    ("2.3 step 2: blank output", row(LS), say(" \n"), NO_OUTPUT),
    ("2.3 step 2: reasoning only", row(LS), [REASONING], NO_OUTPUT),
    ("2.3 step 2: two messages joined", row(LS), say(LS) + say(LS), NO_OUTPUT),
    ("2.3 step 2: two parts joined by newline", row(LS), say(TEXT[:1], TEXT[1:]), "none"),
    ("2.3 step 2: the newline is part of it", row(LS), say(TEXT[:5], TEXT[5:]), NO_OUTPUT),
    ("2.3 step 2: sent as a call", row(LS), [CALL], NO_OUTPUT),
    ("2.3 step 2: a call beside it", row(LS), [*say(LS), CALL], "none"),
    ("2.3 step 3: think block", row(LS), say(f"<think>{{</think>\n{TEXT}"), "none"),
    ("2.3 step 3: closing tag only", row(LS), say(f"hm</think>{TEXT}"), "none"),
    (
        "2.3 step 3: two think blocks",
        row(LS), say(f"<think>a</think>x<think>b</think>{TEXT}"), "none",
    ),
    ("2.3 step 3: unclosed think", row(LS), say(f"<think>{TEXT}"), NO_OUTPUT),
    ("2.3 step 4: gold no JSON", row("ls"), say(LS), NO_GOLD),
    ("2.3 step 4: gold an array", row([LS]), say(LS), NO_GOLD),
    ("2.3 step 4 before 5", row("ls"), say("ls"), NO_GOLD),
    ("2.3 step 5: code fence", row(LS), say(f"```json\n{TEXT}\n```"), NO_OUTPUT),
    ("2.3 step 5: prose in front", row(LS), say(f"Answer: {TEXT}"), NO_OUTPUT),
    ("2.3 step 5: array", row(LS), say([LS]), NO_OUTPUT),
    ("2.3 step 5: number", row(LS), say("5"), NO_OUTPUT),
    ("2.3 step 5: null", row(LS), say("null"), NO_OUTPUT),
    ("2.3 step 6: other harness", row(LS, "terminus_3"), say(LS), "unknown_harness"),
    ("2.3 step 6: no harness", {"expected_answer": TEXT}, say(LS), "unknown_harness"),
    ("2.3 step 6: harness no text", row(LS, ["terminus_2"]), say(LS), "unknown_harness"),
    ("2.3 step 5 before 6", row(LS, "x"), say("x"), NO_OUTPUT),
    ("2.3 step 7: gold of the other harness", row(LS, "terminus_1"), say(one("ls")), NO_GOLD),
    ("2.3 step 8: output of the other harness", row(LS), say(one("ls -la\n")), SCHEMA),
    ("2.3 schema 2: extra key", row(LS), say({**LS, "note": ""}), SCHEMA),
    ("2.3 schema 2: extra key in a command", row(LS), say(one("ls")), SCHEMA),
    ("2.3 schema 2: no plan", row(LS), say(without(LS, "plan")), SCHEMA),
    ("2.3 schema 2: no commands", row(LS), say(without(LS, "commands")), SCHEMA),
    ("2.3 schema 2: analysis no text", row(LS), say({**LS, "analysis": None}), SCHEMA),
    ("2.3 schema 2: flag as text", row(LS), say({**LS, "task_complete": "true"}), SCHEMA),
    ("2.3 schema 2: flag as number", row(LS), say({**LS, "task_complete": 0}), SCHEMA),
    ("2.3 schema 2: command a text", row(LS), say({**LS, "commands": ["ls -la\n"]}), SCHEMA),
    (
        "2.3 schema 2: keystrokes missing",
        row(LS), say({**LS, "commands": [{"duration": 1}]}), SCHEMA,
    ),
    (
        "2.3 schema 2: no duration",
        row(LS), say({**LS, "commands": [{"keystrokes": "ls -la\n"}]}), "none",
    ),
    ("2.3 schema 1: the same", row(one("ls"), "terminus_1"), say(one("ls")), "none"),
    (
        "2.3 schema 1: timeout as int",
        row(one("ls"), "terminus_1"), say(one("ls", timeout_sec=3)), "none",
    ),
    (
        "2.3 schema 1: timeout as text",
        row(one("ls"), "terminus_1"), say(one("ls", timeout_sec="3")), SCHEMA,
    ),
    (
        "2.3 schema 1: timeout as bool",
        row(one("ls"), "terminus_1"), say(one("ls", timeout_sec=True)), SCHEMA,
    ),
    (
        "2.3 schema 1: extra key in a command",
        row(one("ls"), "terminus_1"), say(one("ls", x=1)), SCHEMA,
    ),
    (
        "2.3 schema 1: flag missing",
        row(one("ls"), "terminus_1"), say(without(one("ls"), "is_task_complete")), SCHEMA,
    ),
    ("2.3 done: gold no, output yes", row(LS), say({**LS, "task_complete": True}), "none"),
    ("2.3 done: gold yes, output missing", row({**LS, "task_complete": True}), say(LS), DONE),
    (
        "2.3 done: gold yes, output no",
        row(one("ls", done=True), "terminus_1"), say(one("ls")), DONE,
    ),
    ("2.3 done: both", row(one("ls", done=True), "terminus_1"), say(one("ls", done=True)), "none"),
    ("2.3 done before similarity", row({**LS, "task_complete": True}), say(two("rm")), DONE),
    ("2.3 one command split in two", row(LS), say(two("ls", " -la\n")), "none"),
    (
        "2.3 other prose, other durations",
        row(LS),
        say({**LS, "plan": "x", "commands": [{"keystrokes": "ls -la\n", "duration": 9}]}),
        "none",
    ),
    (
        "2.3 two commands exchanged",
        row(two("cd src\n", "make all\n")), say(two("make all\n", "cd src\n")), BELOW,
    ),
    ("2.3 both command lists empty", row(two()), say(two()), "none"),
    ("2.3 gold's commands empty", row(two()), say(two("ls")), BELOW),
    ("2.3 output's commands empty", row(LS), say(two()), BELOW),
    ("2.3 empty keystrokes on both sides", row(two("")), say(two("")), "none"),
    ("2.3 row threshold 0: any commands", row(LS, threshold=0), say(two("rm -rf /\n")), "none"),
    (
        "2.3 row threshold 0: still wants the flag",
        row({**LS, "task_complete": True}, threshold=0), say(LS), DONE,
    ),
    ("2.3 row threshold null", row(LS, threshold=None), say(two("ls -l\n")), BELOW),
    ("2.3 row threshold beats the options", row(LS, threshold=0.9), say(two("ls -l\n")), "none"),
    (
        "1.1 gold in metadata",
        {"metadata": {"harness": "terminus_2", "expected_answer": TEXT}}, say(LS), "none",
    ),
    (
        "1.1 expected_answer first",
        row(LS, metadata={"harness": "terminus_2", "expected_answer": "x"}), say(LS), "none",
    ),
    (
        "1.1 gold in metadata as an object",
        {"metadata": {"harness": "terminus_2", "expected_answer": LS}}, say(LS), NO_GOLD,
    ),
]  # fmt: skip


@table("given, output, reason", VERDICTS)
def test_without_a_judge(given: Any, output: Any, reason: str) -> None:
    result = score(given, output, STRINGS)
    assert (result.reward, result.reason) == (float(reason == "none"), reason)


def test_without_similarity_and_judge_the_schema_is_enough() -> None:
    """2.3: neither 10 nor 11 on: reaching this point is 1.0."""
    result = score(row(LS), say(two("rm -rf /\n")), NEITHER)
    assert (result.reward, list(result.criteria)) == (1.0, ["schema", "task_complete"])


def test_the_exchanged_commands_have_the_stated_ratio() -> None:
    """2.3: 0 at 0.8 (ratio 0.6); keystrokes are joined with nothing in between."""
    result = score(row(two("abcdef", "ghij")), say(two("ghij", "abcdef")), STRINGS)
    assert result.criteria["similarity"] == pytest.approx(0.6)


def test_the_ratio_takes_the_gold_first() -> None:
    """2.6: ("tide", "diet") has ratio 0.25 and ("diet", "tide") 0.5."""
    tide, diet = row(two("tide")), row(two("diet"))
    assert score(tide, say(two("diet")), STRINGS).criteria["similarity"] == 0.25
    assert score(diet, say(two("tide")), STRINGS).criteria["similarity"] == 0.5


EQUAL, NOT_EQUAL = "They do the same. [[A=B]]", "Another file: [[A!=B]]"
JUDGED = Options()
SWAPPED = Options(check_twice_swap=True)
PUNISHED = Options(check_twice_swap=True, reward_if_swap_fails=-1.0)
BOTH = Options(enable_string_similarity=True)
RM = two("rm -rf build\n")
# (where the case comes from, options, sampled, the judge's answers, reward, reason)
JUDGEMENTS = [
    ("2.3 judge: equal", JUDGED, RM, [EQUAL], 1, "none"),
    ("2.3 judge: not equal", JUDGED, RM, [NOT_EQUAL], 0, "judge_not_equivalent"),
    ("2.3 judge: no label", JUDGED, RM, ["I cannot tell."], 0, "judge_parsing_failed"),
    ("2.3 judge: says nothing", JUDGED, RM, [""], 0, "judge_parsing_failed"),
    (
        "2.3 judge: asked on identical commands too",
        JUDGED, LS, [NOT_EQUAL], 0, "judge_not_equivalent",
    ),
    ("2.3 swap: equal twice", SWAPPED, RM, [EQUAL, EQUAL], 1, "none"),
    ("2.3 swap: no second call", SWAPPED, RM, [NOT_EQUAL], 0, "judge_not_equivalent"),
    ("2.3 swap: second not equal", SWAPPED, RM, [EQUAL, NOT_EQUAL], 0, "judge_not_equivalent"),
    (
        "2.3 swap: second not equal, punished",
        PUNISHED, RM, [EQUAL, NOT_EQUAL], -1, "judge_not_equivalent",
    ),
    ("2.3 swap: second without label", PUNISHED, RM, [EQUAL, "?"], 0, "judge_swap_parsing_failed"),
    ("2.3 step 10: similar, judge not called", BOTH, LS, [], 1, "none"),
    ("2.3 step 11: not similar, judge called", BOTH, RM, [EQUAL], 1, "none"),
    ("2.3 schema fails, judge not called", JUDGED, {"x": 1}, [], 0, SCHEMA),
    (
        "2.3 labels of one's own",
        Options(judge_equal_label="YES", judge_not_equal_label="NO"), RM, ["NO or YES"], 1, "none",
    ),
]  # fmt: skip


@table("options, sampled, answers, reward, reason", JUDGEMENTS)
def test_with_a_judge(
    options: Options, sampled: Any, answers: list[str], reward: float, reason: str
) -> None:
    asked: list[tuple[str, str]] = []

    def judge(first: str, second: str) -> str:
        asked.append((first, second))
        return answers[len(asked) - 1]

    result = score(row(LS), say(sampled), options, judge)
    assert (result.reward, result.reason) == (reward, reason)
    gold_first = (TEXT, json.dumps(sampled))
    assert asked == [gold_first, gold_first[::-1]][: len(answers)]


def test_a_judge_that_is_needed_and_missing_is_an_error() -> None:
    with pytest.raises(UserError, match="needs a judge"):
        score(row(LS), say(RM), BOTH)
    assert score(row(LS), say(LS), BOTH).reward == 1


def test_a_judge_that_fails_is_an_error() -> None:
    def judge(first: str, second: str) -> str:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        score(row(LS), say(RM), JUDGED, judge)


@pytest.mark.parametrize("given", [{"expected_answer": LS}, {"metadata": "terminus_2"}])
def test_rows_that_upstream_refuses_are_errors(given: Any) -> None:
    with pytest.raises(UserError, match=r"row\."):
        score(given, say(LS), STRINGS)
