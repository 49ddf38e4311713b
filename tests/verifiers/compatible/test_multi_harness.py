"""multi_harness: each case named after the row of upstream's observed semantics it comes from."""

import json
from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.multi_harness import Options, score

MATCH, BATCH = "EXPECTED_TOOL_CALL", "EXPECTED_TOOL_CALL_BATCH"
KIND = "ACTION_TYPE_MISMATCH"
INVALID, KEYS = "TOOL_SCHEMA_VALIDATION_FAILED", "UNEXPECTED_ARGUMENT_KEYS"
CMD = "EXEC_COMMAND_CMD_SIMILARITY_BELOW_THRESHOLD"
CHAT = "EXPECTED_CHAT_MESSAGE_FOUND"


def table(names: str, cases: list[Any]) -> Any:
    return pytest.mark.parametrize(
        names, [case[1:] for case in cases], ids=[case[0] for case in cases]
    )


def call(name: str, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"type": "function_call", "name": name, "arguments": text}


def say(*texts: str) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text} for text in texts]
    return {"type": "message", "role": "assistant", "content": parts}


def batch(*calls: Any, ordered: bool = True) -> dict[str, Any]:
    return {"type": "function_call_batch", "calls": list(calls), "ordered": ordered}


def tool(name: str, required: tuple[str, ...] = (), **types: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in types.items()}
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "name": name, "parameters": schema}


TOOLS = [
    tool("exec_command", ("cmd",), cmd="string", workdir="string"),
    tool("bash", command="string"),
    tool("glob", pattern="string", path="string"),
    tool("skill", title="string"),
    tool("other", a="array", b="object", n="integer"),
]


def row(gold: Any, harness: str | None = None, **more: Any) -> dict[str, Any]:
    named = {"harness": harness} if harness else {}
    return {"expected_action": gold, "declared_tools": TOOLS, **named, **more}


EXEC = call("exec_command", {"cmd": "ls -la /src/project"})
SHORT = call("exec_command", {"cmd": "pwd"})
HELLO = {"type": "message", "content": "done"}
REASONING = {"type": "reasoning", "summary": []}
IN_CALL = {"expected_action": EXEC, "responses_create_params": {"tools": TOOLS}}
WRAPPED = [{"type": "function", "function": TOOLS[0]}]

# (where the case comes from, row, output, reason)
ACTIONS = [
    ("2.4 message: any text", row(HELLO), [say("all fine")], CHAT),
    ("2.4 message: blank", row(HELLO), [say(" \n")], "EMPTY_MESSAGE"),
    ("2.4 message: empty", row(HELLO), [say("")], "EMPTY_MESSAGE"),
    ("2.4 message: blank, then text", row(HELLO), [say(""), say("x")], CHAT),
    ("2.4 message: nothing", row(HELLO), [], "NO_ACTION_FOUND"),
    ("2.4 message: reasoning only", row(HELLO), [REASONING], "NO_ACTION_FOUND"),
    ("2.4 message: call", row(HELLO), [EXEC], KIND),
    ("2.4 message: text and call", row(HELLO), [say("x"), EXEC], KIND),
    ("2.4 call: message", row(EXEC), [say("x")], KIND),
    ("2.4 call: two calls", row(EXEC), [EXEC, EXEC], KIND),
    ("2.4 call: text beside it", row(EXEC), [say("x"), EXEC], MATCH),
    ("2.4 call: tool not declared", row(EXEC), [call("rm", {})], "TOOL_SCHEMA_NOT_FOUND"),
    (
        "2.4 call: gold's tool not declared either",
        row(call("rm", {})), [call("rm", {})], "TOOL_SCHEMA_NOT_FOUND",
    ),
    ("2.4 call: other declared tool", row(EXEC), [call("bash", {})], "UNEXPECTED_TOOL"),
    ("2.4 schema before name", row(EXEC), [call("bash", {"command": 1})], INVALID),
    ("2.4 schema: required missing", row(EXEC), [call("exec_command", {})], INVALID),
    ("2.4 schema: wrong type", row(EXEC), [call("exec_command", {"cmd": ["ls"]})], INVALID),
    (
        "2.4 keys: one too many",
        row(SHORT), [call("exec_command", {"cmd": "pwd", "workdir": "/"})], KEYS,
    ),
    (
        "2.4 keys: optional missing",
        row(call("exec_command", {"cmd": "pwd", "workdir": "/"}), "codex"), [SHORT], MATCH,
    ),
    (
        "2.4 any harness: name, keys and schema only",
        row(EXEC), [call("exec_command", {"cmd": "rm"})], MATCH,
    ),
    (
        "2.4 tool of another harness",
        row(EXEC, "opencode"), [call("exec_command", {"cmd": "rm"})], MATCH,
    ),
    ("2.4 coerced: array", row(call("other", {"a": [1]})), [call("other", {"a": "[1]"})], MATCH),
    ("2.4 coerced: object", row(call("other", {"b": {}})), [call("other", {"b": "{}"})], MATCH),
    (
        "2.4 not coerced: text of another type",
        row(call("other", {"a": [1]})), [call("other", {"a": "{}"})], INVALID,
    ),
    (
        "2.4 not coerced: no JSON",
        row(call("other", {"a": [1]})), [call("other", {"a": "1,"})], INVALID,
    ),
    ("2.4 not coerced: number", row(call("other", {"n": 1})), [call("other", {"n": "1"})], INVALID),
    ("1.1 tools of the model call", IN_CALL, [EXEC], MATCH),
    (
        "1.1 declared tools first",
        {**IN_CALL, "declared_tools": []}, [EXEC], "TOOL_SCHEMA_NOT_FOUND",
    ),
    ("1.1 declared tools null", {**IN_CALL, "declared_tools": None}, [EXEC], MATCH),
    (
        "1.2 tools in a function wrapper",
        {"expected_action": EXEC, "declared_tools": WRAPPED}, [EXEC], MATCH,
    ),
    ("2.4 batch: the same", row(batch(EXEC, SHORT)), [EXEC, SHORT], BATCH),
    ("2.4 batch: exchanged", row(batch(EXEC, SHORT), "codex"), [SHORT, EXEC], BATCH),
    (
        "2.4 batch: exchanged, not ordered",
        row(batch(EXEC, SHORT, ordered=False)), [SHORT, EXEC], BATCH,
    ),
    ("2.4 batch: one call", row(batch(EXEC, SHORT)), [EXEC], KIND),
    ("2.4 batch: message", row(batch(EXEC, SHORT)), [say("x")], KIND),
    (
        "2.4 batch: three calls",
        row(batch(EXEC, SHORT)), [EXEC, SHORT, SHORT], "FUNCTION_CALL_BATCH_LENGTH_DIFFERENT",
    ),
    ("2.4 batch of one, one call", row(batch(EXEC)), [EXEC], KIND),
    (
        "2.4 batch: sorted by name first",
        row(batch(call("skill", {"title": "a"}), EXEC)),
        [EXEC, call("skill", {"title": "b"})],
        BATCH,
    ),
    (
        "2.4 batch: keys in another order",
        row(batch(call("glob", {"pattern": "a", "path": "b"}), EXEC)),
        [EXEC, call("glob", {"path": "b", "pattern": "a"})],
        BATCH,
    ),
    (
        "2.4 batch: one wrong",
        row(batch(EXEC, SHORT), "codex"), [EXEC, call("exec_command", {"cmd": "rm"})], CMD,
    ),
]  # fmt: skip


@table("given, output, reason", ACTIONS)
def test_actions(given: Any, output: Any, reason: str) -> None:
    result = score(given, output, Options())
    assert (result.reward, result.reason) == (float(reason in (MATCH, BATCH, CHAT)), reason)


def test_the_row_threshold_beats_the_options() -> None:
    """2.4: row `threshold` overrides 0.9."""
    gold, sampled = EXEC, [call("exec_command", {"cmd": "ls -l /src/proj"})]
    assert score(row(gold, "codex"), sampled, Options()).reward == 0
    assert score(row(gold, "codex"), sampled, Options(string_similarity_threshold=0.5)).reward == 1
    assert score(row(gold, "codex", threshold=0.5), sampled, Options()).reward == 1
    assert score(row(gold, "codex", threshold=1), [EXEC], Options()).reward == 1


@pytest.mark.parametrize("broken", ["", "{", "[]", "null", "5"])
@pytest.mark.parametrize("side", ["gold", "sampled"])
def test_arguments_that_are_no_object_are_errors(broken: str, side: str) -> None:
    """2.4, defect: upstream raises instead of scoring, whatever the tool's name."""
    gold = call("exec_command", broken) if side == "gold" else EXEC
    sampled = call("bash", broken) if side == "sampled" else EXEC
    with pytest.raises(UserError, match="no JSON object"):
        score(row(gold), [sampled], Options())


@pytest.mark.parametrize(
    "more",
    [{"threshold": "0.9"}, {"harness": 5}, {"declared_tools": {}}, {"expected_action": None}],
)
def test_rows_that_upstream_refuses_are_errors(more: Any) -> None:
    with pytest.raises(UserError):
        score({**row(EXEC), **more}, [EXEC], Options())
