"""Whatever a model writes: no crash, a verdict, and no reward for garbage."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivotrl_jax.verifiers import scoring
from pivotrl_jax.verifiers.rows import sampled_action

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=8),
    st.sampled_from(["bash", "message", "assistant", "output_text", "{}", "\ud800"]),
    st.just('{"command": "ls -la /src"}'),
)  # fmt: skip
KEYS = st.sampled_from(["type", "name", "arguments", "role", "content", "text", "x"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4)
)
CALLS = st.fixed_dictionaries(
    {"type": st.just("function_call"), "name": VALUES, "arguments": VALUES}
)
MESSAGES = st.fixed_dictionaries({"type": st.just("message"), "content": VALUES})
OUTPUTS = st.lists(CALLS | MESSAGES | VALUES, max_size=3) | VALUES

CALL = {"type": "function_call", "name": "bash", "arguments": '{"command": "ls -la /src"}'}
TOOL = {"name": "bash", "parameters": {"properties": {"command": {"type": "string"}}}}
ANSWER = {"analysis": "", "plan": "", "commands": [{"keystrokes": "ls -la /src\n"}]}
ROW = {
    "expected_action": CALL,
    "expected_answer": json.dumps(ANSWER),
    "declared_tools": [TOOL],
    "harness": "opencode",
    "metadata": {"harness": "terminus_2"},
}
STRINGS = {"enable_string_similarity": True, "enable_llm_judge": False}
# Those that judge calls; `sql` needs a database and `terminal` an answer in text.
STRICT = ("command", "edit", "search", "tool_call", "tool_name", "multi_harness")
COMPATIBLE = [("tool_args", {}), ("swe_pivot", {}), ("terminus", STRINGS), ("multi_harness", {})]


def score(verifier: str, mode: str, output: Any, config: Any) -> dict[str, Any]:
    line = json.dumps({"id": 1, "row": ROW, "output": output, "config": config}).encode()
    result = json.loads(scoring.score_line(1, line, scoring.scorer(verifier, mode)))
    assert set(result) in ({"id", "error"}, {"id", "reward", "reason", "criteria"})
    return result


@settings(max_examples=150)
@given(OUTPUTS)
def test_any_output_gets_a_line(output: Any) -> None:
    for verifier, config in COMPATIBLE:
        result = score(verifier, "compatible", output, config)
        assert result.get("reward", 0.0) in (0.0, 1.0)
    for verifier in STRICT:
        result = score(verifier, "strict", output, {})
        assert not (result["reward"] and sampled_action(output).problems)


def call(arguments: Any, name: Any = "bash") -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": arguments}


def say(text: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text}
    return {"type": "message", "role": "assistant", "content": [part]}


MEGABYTE = "ls -la /src " * 90_000
GARBAGE = {
    "nothing": [],
    "no list": CALL,
    "wrong types": [5, None, [], "bash"],
    "a number for a name": [call(CALL["arguments"], 5)],
    "an object for arguments": [call({"command": "ls -la /src"})],
    "deep lists": [call("[" * 100_000)],
    "deep closed objects": [call('{"command":' * 100_000 + "1" + "}" * 100_000)],
    "deep value": [call('{"command": "ls -la /src", "x": ' + "[" * 500 + "]" * 500 + "}")],
    "a megabyte of text": [say(MEGABYTE)],
    "a megabyte of command": [call(json.dumps({"command": "x" + MEGABYTE}))],
    "a megabyte of name": [call("{}", MEGABYTE)],
    "surrogates": [call('{"command": "\\ud800"}', "\ud800")],
    "NaN": [call('{"command": NaN}')],
    "Infinity": [call('{"command": -Infinity}')],
    "duplicate keys": [call('{"command": "ls -la /src", "command": "rm -rf /"}')],
    "huge integer": [call(f'{{"command": {"9" * 5000}}}')],
    "cut off": [call('{"command": "ls -la /s')],
    "trailing text": [call('{"command": "ls -la /src"} and so on')],
    "unclosed quote": [call(json.dumps({"command": "echo '" + '"(' * 5000}))],
    "ten thousand calls": [call("{}")] * 10_000,
    "a user's call": [{"type": "message", "role": "user", "content": "bash"}],
    "an invented item": [{"type": "bash", "command": "ls -la /src"}],
}


# Well-formed calls of the right tool are all that this verifier asks for.
RIGHT_TOOL = {("tool_name", "a megabyte of command"), ("tool_name", "unclosed quote")}


@pytest.mark.parametrize(
    ("verifier", "name"), sorted(set(itertools.product(STRICT, GARBAGE)) - RIGHT_TOOL)
)
def test_strict_verifiers_never_reward_garbage(verifier: str, name: str) -> None:
    result = score(verifier, "strict", GARBAGE[name], {})
    assert result["reward"] == 0


# The holes that upstream is known for, and no others.
HOLES = {
    ("swe_pivot", "deep value"): 1.0,
    ("swe_pivot", "cut off"): 1.0,
    ("swe_pivot", "trailing text"): 1.0,
    ("swe_pivot", "ten thousand calls"): 1.0,
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize(("verifier", "config"), COMPATIBLE, ids=lambda value: str(value)[:13])
def test_compatible_verifiers_reward_it_only_as_upstream(
    verifier: str, config: Any, name: str
) -> None:
    result = score(verifier, "compatible", GARBAGE[name], config)
    assert result.get("reward", 0.0) == HOLES.get((verifier, name), 0.0)
