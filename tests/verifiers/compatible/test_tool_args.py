"""tool_args: each case named after the row of upstream's observed semantics it comes from."""

import json
from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.tool_args import Options, score

TYPE, VALUE = "ARGUMENT_VALUE_TYPE_DIFFERENT", "ARGUMENT_VALUE_DIFFERENT"
KEYS, LENGTH = "ARGUMENT_OBJECT_KEYS_DIFFERENT", "ARGUMENT_LIST_LENGTH_DIFFERENT"
MATCH, BATCH = "EXPECTED_TOOL_CALL", "EXPECTED_TOOL_CALL_BATCH"
CHAT, NOTHING = "EXPECTED_CHAT_MESSAGE_FOUND", "NO_ACTION_FOUND"
BROKEN = "ARGUMENTS_DECODE_ERROR"
COUNT = "FUNCTION_CALL_BATCH_LENGTH_DIFFERENT"


def table(names: str, cases: list[Any]) -> Any:
    return pytest.mark.parametrize(
        names, [case[1:] for case in cases], ids=[case[0] for case in cases]
    )


def call(arguments: Any, name: str = "f") -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"type": "function_call", "name": name, "arguments": text, "call_id": "c"}


def say(*texts: str) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text} for text in texts]
    return {"type": "message", "role": "assistant", "content": parts}


REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "f"}]}
REFUSAL = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "refusal", "refusal": "no"}],
}
USER = {"type": "message", "role": "user", "content": [{"type": "output_text", "text": "hi"}]}
HELLO = {"type": "message", "content": "hello"}
CALL = call({"city": "Paris"})

# (where the case comes from, expected action, output, reason)
ACTIONS = [
    ("2.1 message: any text", HELLO, [say("something else")], CHAT),
    ("2.1 message: empty text", HELLO, [say("")], CHAT),
    ("2.1 message: text of the second message", HELLO, [say(), say("x")], CHAT),
    ("2.1 message: text after a refusal", HELLO, [REFUSAL, say("x")], CHAT),
    ("2.1 message: reasoning, then text", HELLO, [REASONING, say("x")], CHAT),
    ("2.1 message: call", HELLO, [CALL], "NO_EXPECTED_CHAT_MESSAGE"),
    ("2.1 message: text and call", HELLO, [say("x"), CALL], "NO_EXPECTED_CHAT_MESSAGE"),
    ("2.1 message: call before text", HELLO, [CALL, say("x")], "NO_EXPECTED_CHAT_MESSAGE"),
    ("2.1 message: reasoning only", HELLO, [REASONING], NOTHING),
    ("2.1 message: refusal only", HELLO, [REFUSAL], NOTHING),
    ("2.1 message: nothing", HELLO, [], NOTHING),
    ("2.1 message: no parts", HELLO, [say()], NOTHING),
    ("2.1 message: a user's text", HELLO, [USER], NOTHING),
    ("2.1 call: message", CALL, [say("x")], "NO_EXPECTED_TOOL_CALL"),
    ("2.1 call: reasoning only", CALL, [REASONING], NOTHING),
    ("2.1 call: refusal only", CALL, [REFUSAL], NOTHING),
    ("2.1 call: nothing", CALL, [], NOTHING),
    ("2.1 call: the same", CALL, [CALL], MATCH),
    ("2.1 call: text beside it", CALL, [say("I look it up"), CALL], MATCH),
    ("2.1 call: reasoning beside it", CALL, [REASONING, CALL], MATCH),
    ("2.1 call: other tool", CALL, [call({"city": "Paris"}, "g")], "UNEXPECTED_TOOL"),
    ("2.1 call: Ping / ping", call({}, "Ping"), [call({}, "ping")], "UNEXPECTED_TOOL"),
    ("2.1 call: arguments not JSON", CALL, [call("{'city': 'Paris'}")], BROKEN),
    ("2.1 call: arguments empty", call({}), [call("")], BROKEN),
    ("2.1 call: null where {} is expected", call({}), [call("null")], TYPE),
    ("2.1 call: [] where {} is expected", call({}), [call("[]")], TYPE),
    ("2.1 call: other white space", CALL, [call('{ "city" :\n"Paris" }')], MATCH),
    ("2.1 call: other key order", call({"a": 1, "b": 2}), [call('{"b": 2, "a": 1}')], MATCH),
    ("2.1 call: gold not JSON, other tool", call("{"), [call("{}", "g")], "UNEXPECTED_TOOL"),
    ("2.1 order: tool before arguments", CALL, [call("{", "g")], "UNEXPECTED_TOOL"),
]  # fmt: skip


@table("expected, output, reason", ACTIONS)
def test_actions(expected: Any, output: Any, reason: str) -> None:
    result = score({"expected_action": expected}, output, Options())
    assert result.reason == reason
    assert result.reward == float(reason in (MATCH, BATCH, CHAT))


# (where the case comes from, expected value, actual value, reason)
VALUES = [
    ("2.1 null: null / null", None, None, MATCH),
    ("2.1 null: null / 'None'", None, "None", TYPE),
    ("2.1 null: null / ''", None, "", TYPE),
    ("2.1 null: null / 0", None, 0, TYPE),
    ("2.1 bool: true / true", True, True, MATCH),
    ("2.1 bool: true / false", True, False, VALUE),
    ("2.1 bool: true / 1", True, 1, TYPE),
    ("2.1 bool: false / 'false'", False, "false", TYPE),
    ("2.1 int: 1 / true", 1, True, MATCH),
    ("2.1 int: 0 / false", 0, False, MATCH),
    ("2.1 int: 2 / true", 2, True, VALUE),
    ("2.1 int: 1 / 1.0", 1, 1.0, TYPE),
    ("2.1 int: 1 / 2", 1, 2, VALUE),
    ("2.1 int: 75 / '75'", 75, "75", TYPE),
    ("2.1 int: '75' / 75", "75", 75, TYPE),
    ("2.1 float: 1.0 / 1", 1.0, 1, TYPE),
    ("2.1 float: 1.0 / 1.000000001", 1.0, 1.000000001, MATCH),
    ("2.1 float: 1.0 / 1.000001 (not < 1e-6)", 1.0, 1.0000011, VALUE),
    ("2.1 float: 1e9 / 1e9+1", 1e9, 1e9 + 1, VALUE),
    ("2.1 float: 1.0 / true", 1.0, True, TYPE),
    ("2.1 float: NaN / NaN", float("nan"), float("nan"), VALUE),
    ("2.1 float: Infinity / Infinity", float("inf"), float("inf"), VALUE),
    ("2.1 word: Paris / Paris", "Paris", "Paris", MATCH),
    ("2.1 word: Paris / paris", "Paris", "paris", VALUE),
    ("2.1 word: Paris / 'Paris '", "Paris", "Paris ", VALUE),
    ("2.1 word: hello / hello world", "hello", "hello world", VALUE),
    ("2.1 word: hello world / hello", "hello world", "hello", VALUE),
    ("2.1 word: '' / ''", "", "", MATCH),
    ("2.1 word: '' / ' '", "", " ", VALUE),
    ("2.1 words: Hello World / hello world", "Hello World", "hello world", MATCH),
    ("2.1 words: one two three / four five six", "one two three", "four five six", VALUE),
    ("2.1 words: order does not matter", "a b c", "c a b", MATCH),
    ("2.1 words: other white space", "a b", " b\ta\n", MATCH),
    ("2.1 words: 5 and 5 with 1 shared = 0.1", "a b c d e", "a v w x y", MATCH),
    ("2.1 words: 6 and 5 with 1 shared < 0.1", "a b c d e f", "a v w x y", VALUE),
    ("2.1 words: punctuation stays attached", "north, south", "north south.", VALUE),
    ("2.1 list: equal", [1, 2], [1, 2], MATCH),
    ("2.1 list: [1, 2] / [1]", [1, 2], [1], LENGTH),
    ("2.1 list: [1] / [1, 2]", [1], [1, 2], LENGTH),
    ("2.1 list: [1, 2] / [2, 1]", [1, 2], [2, 1], VALUE),
    ("2.1 list: [] / {}", [], {}, TYPE),
    ("2.1 list: [] / []", [], [], MATCH),
    ("2.1 list: element by element, fuzzily", ["a b"], ["b a"], MATCH),
    ("2.1 list: [1] / '1'", [1], "[1]", TYPE),
    ("2.1 object: {a} / {a, b: null}", {"a": 1}, {"a": 1, "b": None}, KEYS),
    ("2.1 object: {a, b: null} / {a}", {"a": 1, "b": None}, {"a": 1}, KEYS),
    ("2.1 object: {} / {a}", {}, {"a": 1}, KEYS),
    ("2.1 object: value by value", {"a": 1, "b": 2}, {"a": 1, "b": 3}, VALUE),
    ("2.1 object: nested", {"a": {"b": [1.0]}}, {"a": {"b": [1.0]}}, MATCH),
    ("2.1 object: nested type", {"a": {"b": [1.0]}}, {"a": {"b": [1]}}, TYPE),
]  # fmt: skip


@table("expected, actual, reason", VALUES)
def test_values(expected: Any, actual: Any, reason: str) -> None:
    row = {"expected_action": call({"x": expected})}
    result = score(row, [call({"x": actual})], Options())
    assert (result.reward, result.reason) == (float(reason == MATCH), reason)


TOWER = "where is the eiffel tower"
# (where the case comes from, threshold, expected value, actual value, reason)
THRESHOLDS = [
    ("2.1 words at 0.3: 3 of 9", 0.3, TOWER, "the eiffel tower location", MATCH),
    ("2.1 words at 0.3: 2 of 11", 0.3, TOWER, "eiffel tower height metres today please", VALUE),
    ("2.1 words at 0.5: identical", 0.5, "a b", "a b", MATCH),
    ("2.1 words above 0.5: identical", 0.51, "a b", "a b", VALUE),
    ("2.1 words above 0.5: identical single word", 0.51, "a", "a", MATCH),
    ("2.1 words: repeated words count", 0.4, "a a b", "a b b", VALUE),
    ("2.1 words: repeated words, a third", 0.33, "a a b", "a b b", MATCH),
    ("2.1 threshold 0: rm -rf / passes", 0.0, "cd /repo && pytest -q", "rm -rf /", MATCH),
    ("2.1 threshold 0: single words stay exact", 0.0, "ls", "pwd", VALUE),
]  # fmt: skip


@table("threshold, expected, actual, reason", THRESHOLDS)
def test_word_thresholds(threshold: float, expected: str, actual: str, reason: str) -> None:
    row = {"expected_action": call({"x": expected})}
    options = Options(word_count_similarity_threshold=threshold)
    assert score(row, [call({"x": actual})], options).reason == reason


def test_threshold_0_still_wants_equal_keys() -> None:
    """2.1: the gold has security_risk, the model leaves it out."""
    row = {"expected_action": call({"command": "ls -la", "security_risk": "LOW"})}
    options = Options(word_count_similarity_threshold=0.0)
    assert score(row, [call({"command": "ls -la"})], options).reason == KEYS


def query(words: str) -> dict[str, Any]:
    return call({"query": words})


def batch(*calls: Any) -> dict[str, Any]:
    return {"type": "function_call_batch", "calls": list(calls)}


ALPHA, BETA, WRONG = query("alpha"), query("beta"), query("gamma")
TWO = batch(ALPHA, BETA)
OTHER = call({"x": 1}, "g")
# At two shared words each gold fits two calls, and taking the first free one strands the third.
GREEDY = batch(query("p q t u"), query("p r x y"), query("q s z k"))
TRAP = [query("p q r s"), query("t u v w"), query("x y z k")]
# (where the case comes from, expected action, calls, reward, reason); the number of calls is free
FREE = [
    ("2.1 calls: both", TWO, [ALPHA, BETA], 1, BATCH),
    ("2.1 calls: both, exchanged", TWO, [BETA, ALPHA], 1, BATCH),
    ("2.1 calls: surplus last", TWO, [ALPHA, BETA, OTHER], 1, BATCH),
    ("2.1 calls: surplus first", TWO, [OTHER, BETA, ALPHA], 1, BATCH),
    ("2.1 calls: one wrong", TWO, [ALPHA, WRONG], 0, VALUE),
    ("2.1 calls: one missing", TWO, [ALPHA], 0, COUNT),
    ("2.1 calls: one of two tools wrong", batch(ALPHA, OTHER), [ALPHA, BETA], 0, "UNEXPECTED_TOOL"),
    ("2.1 calls: reason of the first near miss", TWO, [ALPHA, OTHER], 0, VALUE),
    ("2.1 calls: reason beyond the tool's name", TWO, [OTHER, WRONG, OTHER], 0, VALUE),
    ("2.1 calls: twice the same, once given", batch(ALPHA, ALPHA), [ALPHA, BETA], 0, VALUE),
    ("2.1 calls: twice the same, twice given", batch(ALPHA, ALPHA), [ALPHA, ALPHA], 1, BATCH),
    ("2.1 calls: greedy trap", GREEDY, TRAP, 1, BATCH),
    ("2.1 calls: single gold, surplus", ALPHA, [OTHER, ALPHA], 1, MATCH),
    ("2.1 calls: single gold among wrong ones", ALPHA, [WRONG, BETA], 0, VALUE),
    ("2.1 calls: batch of one, one call", batch(ALPHA), [ALPHA], 1, MATCH),
    ("2.1 calls: batch of one, surplus", batch(ALPHA), [BETA, ALPHA], 1, MATCH),
    ("2.1 calls: batch of one, arguments broken", batch(ALPHA), [call("{")], 0, BROKEN),
    ("2.1 calls: batch, message only", TWO, [say("x")], 0, "NO_EXPECTED_TOOL_CALL"),
    ("2.1 calls: batch, nothing", TWO, [], 0, NOTHING),
]  # fmt: skip


@table("expected, output, reward, reason", FREE)
def test_calls_without_counting(expected: Any, output: Any, reward: float, reason: str) -> None:
    result = score(
        {"expected_action": expected}, output, Options(word_count_similarity_threshold=0.2)
    )
    assert (result.reward, result.reason) == (reward, reason)


JUNK = [query(f"junk{index}") for index in range(20)]
MODES = ("binary_strict", "fractional", "f1")
# (where the case comes from, gates, calls, reward in each mode); expected are alpha and beta
GRADED = [
    ("2.1 modes: both", "subset superset", [BETA, ALPHA], (1, 1, 1)),
    ("2.1 modes: alpha, wrong", "subset superset", [ALPHA, WRONG], (0, 0.5, 0.5)),
    ("2.1 modes: alpha only", "subset superset", [ALPHA], (1, 1, 2 / 3)),
    ("2.1 modes: both and 1 junk", "subset superset", [ALPHA, BETA, *JUNK[:1]], (1, 1, 0.8)),
    ("2.1 modes: both and 3 junk", "subset superset", [*JUNK[:3], ALPHA, BETA], (1, 1, 4 / 7)),
    ("2.1 modes: both and 20 junk", "subset superset", [ALPHA, BETA, *JUNK], (1, 1, 4 / 24)),
    ("2.1 modes: wrong only", "subset superset", [WRONG], (0, 0, 0)),
    ("2.1 gate: only allow_subset, 3 calls", "subset", [ALPHA, BETA, WRONG], (0, 0, 0)),
    ("2.1 gate: only allow_superset, 1 call", "superset", [ALPHA], (0, 0, 0)),
    ("2.1 gate: only allow_superset, 3 calls", "superset", [ALPHA, WRONG, BETA], (1, 1, 0.8)),
    ("2.1 gate: only allow_subset, 1 call", "subset", [BETA], (1, 1, 2 / 3)),
    ("2.1 gate: closed, 3 calls", "", [ALPHA, BETA, WRONG], (0, 0, 0)),
    ("2.1 gate: closed, 1 call", "", [ALPHA], (0, 0, 0)),
    ("2.1 gate: closed, equal counts", "", [BETA, ALPHA], (1, 1, 1)),
    ("2.1 gate: closed, equal counts, one wrong", "", [WRONG, ALPHA], (0, 0.5, 0.5)),
]  # fmt: skip


@pytest.mark.parametrize("mode", range(3), ids=MODES)
@table("gates, output, rewards", GRADED)
def test_graded_calls(gates: str, output: Any, rewards: tuple[float, ...], mode: int) -> None:
    options = Options(
        parallel_tool_call_rewarding=True,
        allow_subset="subset" in gates.split(),
        allow_superset="superset" in gates.split(),
        parallel_tool_call_reward_mode=MODES[mode],
    )
    result = score({"expected_action": TWO}, output, options)
    assert result.reward == pytest.approx(rewards[mode])


def test_one_call_each_is_scored_alike_in_every_mode() -> None:
    """2.1: one expected and one actual call use the single-call path in every mode."""
    for mode in MODES:
        options = Options(parallel_tool_call_rewarding=True, parallel_tool_call_reward_mode=mode)
        wrong = score({"expected_action": batch(ALPHA)}, [BETA], options)
        assert (wrong.reward, wrong.reason) == (0.0, VALUE)


def test_a_gate_that_is_shut_is_the_reason() -> None:
    options = Options(parallel_tool_call_rewarding=True)
    result = score({"expected_action": TWO}, [ALPHA], options)
    assert (result.reward, result.reason) == (0.0, COUNT)


GOLD = {"expected_action": CALL}
# (where the case comes from, row, output, message): upstream raises or refuses to read these
ERRORS = [
    ("2.1 gold not JSON, same tool", {"expected_action": call("{")}, [call("{}")], "Expecting"),
    (
        "1.4 no type",
        {"expected_action": {"name": "f", "arguments": "{}"}},
        [CALL],
        "type is 'None'",
    ),
    ("1.4 unknown kind", {"expected_action": {"type": "handoff"}}, [CALL], "type is 'handoff'"),
    ("1.4 empty batch", {"expected_action": batch()}, [CALL], "calls is empty"),
    (
        "1.4 arguments as an object",
        {"expected_action": {**CALL, "arguments": {}}},
        [CALL],
        "row.expected_action.arguments is not text",
    ),
    ("1.1 no gold", {}, [CALL], "row.expected_action is missing"),
    ("1.3 object in the output", GOLD, [{**CALL, "arguments": {}}], r"output\[0\].arguments"),
    ("1.3 no name", GOLD, [say("x"), {"type": "function_call"}], r"output\[1\].name"),
    ("1.3 output no list", GOLD, CALL, "output is not a list"),
    ("1.3 item no object", GOLD, ["f"], r"output\[0\] is missing or not an object"),
]


@table("row, output, message", ERRORS)
def test_errors_are_no_rewards(row: Any, output: Any, message: str) -> None:
    with pytest.raises((UserError, ValueError), match=message):
        score(row, output, Options())
