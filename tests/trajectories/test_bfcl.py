"""BFCL: reference answers become expert turns; call strings are read as literals only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.trajectories import Message, ToolCall, read
from pivotrl_jax.trajectories.bfcl import bfcl, parsed_call
from pivotrl_jax.trajectories.formats import detect
from pivotrl_jax.trajectories.parsing import BadRow

Rows = Callable[[str], list[dict[str, Any]]]
SORT = [{"function": {"name": "sort", "parameters": {"properties": {"file": {}, "by": {}}}}}]


def test_single_turn(carried: Rows) -> None:
    row = next(r for r in carried("tool_use/bfcl_single_turn") if r["id"] == "bfcl-simple_python_0")
    found = bfcl(row, "a:1")
    # "unit" may be left out: an empty string is among its accepted values.
    made = ToolCall("calculate_triangle_area", {"base": 10, "height": 5})
    assert found.messages[-1] == Message("assistant", "", (made,))
    assert found.facts["accepted"] == row["ground_truth"]
    (tool,) = found.tools
    assert tool["type"] == "function"
    assert tool["function"]["parameters"]["type"] == "object"


def accepted(value: Any, accepted_values: Any) -> bool:
    """The benchmark's rule, in short: a value is right if it is among the accepted ones."""
    if value in accepted_values:
        return True
    options = [each for each in accepted_values if isinstance(each, dict)]
    if isinstance(value, dict):
        return any(
            all(accepted(v, o[k] if isinstance(o[k], list) else [o[k]]) for k, v in value.items())
            and all(k in value or "" in o[k] for k in o)
            for o in options
        )
    if isinstance(value, list):
        lists = [each for each in accepted_values if isinstance(each, list)]
        return any(
            len(each) == len(value)
            and all(accepted(v, [e]) for v, e in zip(value, each, strict=True))
            for each in lists
        )
    return False


def test_every_expert_answer_is_accepted(carried: Rows) -> None:
    checked = 0
    for row in carried("tool_use/bfcl_single_turn"):
        calls = bfcl(row, "a:1").messages[-1].calls
        assert len(calls) == len(row["ground_truth"])
        for call, truth in zip(calls, row["ground_truth"], strict=True):
            ((name, values),) = truth.items()
            assert call.name == name
            assert all(name in call.arguments or "" in values[name] for name in values)
            for argument, value in call.arguments.items():
                assert accepted(value, values[argument]), (row["id"], argument)
                checked += 1
    assert checked > 1000


def test_nested_values_and_types() -> None:
    row = {
        "messages": [{"role": "user", "content": "Go."}],
        "functions": [
            {
                "name": "move",
                "parameters": {
                    "type": "dict",
                    "properties": {
                        "x": {"type": "float"},
                        "pair": {"type": "tuple", "items": {"type": "any"}},
                        "type": {"type": "string"},
                    },
                },
                "response": {"type": "dict"},
            }
        ],
        "ground_truth": [{"move": {"x": [1.5, 2], "way": [{"a": ["left", "l"], "b": ["", 3]}]}}],
    }
    found = bfcl(row, "a:1")
    assert found.messages[-1].calls == (ToolCall("move", {"x": 1.5, "way": {"a": "left"}}),)
    assert found.tools[0]["function"] == {
        "name": "move",
        "parameters": {
            "type": "object",
            "properties": {
                "x": {"type": "number"},
                "pair": {"type": "array", "items": {}},
                "type": {"type": "string"},
            },
        },
    }


def test_multi_turn_with_tools_beside_it() -> None:
    folder = Path(__file__).parents[2] / "experiments/data/tool_use"
    trajectories, _ = read(folder / "bfcl_multi_turn.jsonl.gz")
    found = next(
        each for each in trajectories if "GorillaFileSystem" in each.facts["initial_config"]
    )
    assert {tool["function"]["name"] for tool in found.tools} >= {"cd", "mkdir", "grep"}
    names = {tool["function"]["name"] for each in trajectories for tool in each.tools}
    calls = [call for each in trajectories for m in each.messages for call in m.calls]
    assert len(calls) > 200
    assert all(call.name in names and isinstance(call.arguments, dict) for call in calls)


def test_a_turn_without_a_reference_call_has_no_expert() -> None:
    asked = [[{"role": "user", "content": text}] for text in "ab"]
    found = bfcl({"turns": asked, "ground_truth": [[], ["ls(a=True)"]]}, "a:1")
    assert [message.role for message in found.messages] == ["user", "user", "assistant"]
    assert found.messages[-1].calls == (ToolCall("ls", {"a": True}),)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("sort('a.txt')", {"file": "a.txt"}),
        ("sort('a.txt', by='size')", {"file": "a.txt", "by": "size"}),
        ("sort(file=[1, -2.5, None, True], by={'k': ('x',)})",
         {"file": [1, -2.5, None, True], "by": {"k": ["x"]}}),
        ("sort()", {}),
    ],
)  # fmt: skip
def test_call_strings(text: str, arguments: dict[str, Any]) -> None:
    assert parsed_call(text, SORT) == ToolCall("sort", arguments)


def test_dotted_names() -> None:
    assert parsed_call("api.Files.sort(by='x')") == ToolCall("api.Files.sort", {"by": "x"})


@pytest.mark.parametrize(
    "text",
    [
        "sort('a', 'b', 'c')",
        "unknown('a')",
        "sort(file=open('/etc/passwd'))",
        "sort(file=__import__('os').system('true'))",
        "sort(**{'file': 'a'})",
        "sort(*['a'])",
        "sort(file=10 ** 10 ** 10)",
        "sort(file=b'a')",
        "sort(file={1, 2})",
        "sort",
        "sort(",
        "sort(); sort()",
        "lambda: sort()",
        "sort(file=" + "[" * 5000 + "]" * 5000 + ")",
        "sort(file=" + "-" * 15_000 + "1)",
        "sort(file='" + "a" * 30_000 + "')",
        "sort(file=" + "9" * 6000 + ")",
        "sort(file='\x00')",
        "",
    ],
)
def test_hostile_call_strings_are_refused(text: str) -> None:
    with pytest.raises(BadRow, match=r"malformed_ground_truth|malformed_tool_calls"):
        parsed_call(text, SORT)


ROW = {
    "messages": [{"role": "user", "content": "Go."}],
    "functions": [{"name": "f", "parameters": {}}],
    "ground_truth": [{"f": {}}],
}
USER = [{"role": "user", "content": "Go."}]


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("no_reference_answer", {**ROW, "ground_truth": []}),
        ("malformed_ground_truth", {**ROW, "ground_truth": "f()"}),
        ("malformed_ground_truth", {**ROW, "ground_truth": [{"f": {}, "g": {}}]}),
        ("malformed_ground_truth", {**ROW, "ground_truth": [{"f": [1]}]}),
        ("malformed_tools", {**ROW, "functions": "f"}),
        ("malformed_tools", {**ROW, "functions": [{"parameters": {}}]}),
        ("malformed_ground_truth", {"turns": [USER], "ground_truth": []}),
        ("malformed_ground_truth", {"turns": [USER], "ground_truth": ["f()"]}),
        ("malformed_ground_truth", {"turns": [USER], "ground_truth": [["f(1)"]]}),
        ("malformed_message", {"turns": ["Go."], "ground_truth": [["f()"]]}),
        ("no_assistant_turn", {"turns": [USER], "ground_truth": [[]]}),
    ],
)
def test_malformed_rows(reason: str, row: dict[str, Any]) -> None:
    assert detect(row) == "bfcl"
    with pytest.raises(BadRow, match=reason):
        bfcl(row, "a:1")
