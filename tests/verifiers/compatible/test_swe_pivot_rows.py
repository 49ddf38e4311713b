"""swe_pivot: where the gold is found and which call is read."""

import json
from typing import Any

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.compatible.swe_pivot import Options, score

NAME, ERROR = "tool_name_mismatch", "unknown_error"
NO_GOLD, NO_CALL = "expected_action_invalid", "model_output_invalid"


def table(names: str, cases: list[Any]) -> Any:
    return pytest.mark.parametrize(
        names, [case[1:] for case in cases], ids=[case[0] for case in cases]
    )


def call(name: str, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"type": "function_call", "name": name, "arguments": text}


TEXT = {"type": "output_text", "text": "x"}
MESSAGE = {"type": "message", "role": "assistant", "content": [TEXT]}
LS = call("execute_bash", {"command": "ls -la"})
GREP = call("grep", {"pattern": "total", "path": "src/models"})
IN_METADATA = {"metadata": {"expected_action": LS}}

# (where the case comes from, row, output, reason)
ROWS = [
    ("2.2 only the first call: right, wrong", {"expected_action": LS}, [LS, GREP], "none"),
    ("2.2 only the first call: wrong, right", {"expected_action": LS}, [GREP, LS], NAME),
    ("2.2 text before the call", {"expected_action": LS}, [MESSAGE, LS], "none"),
    ("2.2 no call", {"expected_action": LS}, [MESSAGE], NO_CALL),
    ("2.2 nothing", {"expected_action": LS}, [], NO_CALL),
    ("2.2 gold a message", {"expected_action": {"type": "message", "content": "x"}}, [LS], NO_GOLD),
    (
        "2.2 gold a batch",
        {"expected_action": {"type": "function_call_batch", "calls": [LS]}}, [LS], NO_GOLD,
    ),
    ("2.2 no gold, no call", {}, [MESSAGE], NO_GOLD),
    (
        "1.4 arguments as an object",
        {"expected_action": {**LS, "arguments": {"command": "ls -la"}}}, [LS], "none",
    ),
    (
        "1.4 no arguments",
        {"expected_action": {"type": "function_call", "name": "bash"}}, [LS], "none",
    ),
    ("1.4 no name", {"expected_action": {"type": "function_call"}}, [LS], ERROR),
    ("1.1 gold in expected_answer", {"expected_answer": json.dumps(LS)}, [LS], "none"),
    ("1.1 gold in metadata", IN_METADATA, [LS], "none"),
    (
        "1.1 expected_action first",
        {"expected_action": GREP, "expected_answer": json.dumps(LS)}, [LS], NAME,
    ),
    (
        "1.1 expected_answer before metadata",
        {"expected_answer": json.dumps(GREP), **IN_METADATA}, [LS], NAME,
    ),
    (
        "1.1 the first that is a function_call",
        {"expected_action": {"type": "message"}, "expected_answer": "[]", **IN_METADATA},
        [LS],
        "none",
    ),
    (
        "1.1 expected_answer no JSON",
        {"expected_answer": "ls -la", **IN_METADATA}, [LS], "none",
    ),
    (
        "1.1 expected_answer without name",
        {"expected_answer": '{"type": "function_call"}', **IN_METADATA},
        [LS],
        "none",
    ),
]  # fmt: skip


@table("row, output, reason", ROWS)
def test_where_the_gold_is(row: Any, output: Any, reason: str) -> None:
    result = score(row, output, Options())
    assert (result.reward, result.reason) == (float(reason == "none"), reason)


@pytest.mark.parametrize(
    "row", [{"expected_action": "ls"}, {"metadata": []}, {"expected_answer": 5}]
)
def test_rows_that_upstream_refuses_are_errors(row: Any) -> None:
    with pytest.raises(UserError, match=r"row\."):
        score(row, [LS], Options())
