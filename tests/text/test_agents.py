"""The turn formats of single agents, on turns of theirs (origins: data/agent_turns.json)."""

import json
from pathlib import Path

import pytest

from pivotrl_jax.text import action_format
from pivotrl_jax.trajectories.schema import Action, ToolCall

DATA = Path(__file__).parent / "data" / "agent_turns.json"
TURNS = {
    name: entry["turns"] for name, entry in json.loads(DATA.read_text(encoding="utf-8")).items()
}
SEARCH = ToolCall("search", {"query": "x"})


@pytest.mark.parametrize("turn", TURNS["react"])
def test_real_react_turns_are_printed_as_they_stand(turn: str) -> None:
    fmt = action_format("react")
    parsed = fmt.parse(turn)
    (call,) = parsed.action.calls
    assert fmt.print(parsed.action) == turn
    assert f"Action: {call.name}[{next(iter(call.arguments.values()))}]" in turn
    several = "], search[" in turn
    assert parsed.problems == (("several_actions",) if several else ())
    assert "Thought" not in parsed.action.text


@pytest.mark.parametrize(
    ("text", "problems", "action"),
    [
        ("Thought: a\nAction: search[x]", [], Action("a", (SEARCH,))),
        ("Thought 2: a\nAction 2: search[x]\n", [], Action("a", (SEARCH,))),
        ("Action: search[x]  ", [], Action("", (SEARCH,))),
        ("Action: search[x]\r", [], Action("", (SEARCH,))),
        ("a\nAction: search[x]", ["no_thought"], Action("a", (SEARCH,))),
        ("Thought: a", ["no_action"], Action("Thought: a")),
        ("Thought: a\nAction: look around", ["bad_action"], Action("a")),
        ("Action: search[x\ny]", ["text_after_action", "bad_action"], Action("")),
        (
            "Action: search[x]\nObservation: y\nThought: b\nAction: finish[z]",
            ["text_after_action"],
            Action("", (SEARCH,)),
        ),
        (
            "Action: search[a [b] c]",
            [],
            Action("", (ToolCall("search", {"query": "a [b] c"}),)),
        ),
        ("Action: Search[x]", ["unknown_tool"], Action("", (ToolCall("Search", {"input": "x"}),))),
        (
            "Action: search[x]; lookup[y]",
            ["several_actions"],
            Action("", (ToolCall("search", {"query": "x]; lookup[y"}),)),
        ),
        ("Action: lookup[k]", [], Action("", (ToolCall("lookup", {"keyword": "k"}),))),
    ],
)
def test_react_names_problems(text: str, problems: list[str], action: Action) -> None:
    parsed = action_format("react").parse(text)
    assert list(parsed.problems) == problems
    assert parsed.action == action


@pytest.mark.parametrize(
    "call",
    [
        ToolCall("search", {"query": 3}),
        ToolCall("search", {"query": "x", "top": "3"}),
        ToolCall("search", {"answer": "x"}),
        ToolCall("search", None),
        ToolCall("web search", {"input": "x"}),
    ],
)
def test_react_refuses_what_it_cannot_hold(call: ToolCall) -> None:
    with pytest.raises(ValueError, match="cannot write"):
        action_format("react").print(Action("a", (call,)))
    with pytest.raises(ValueError, match="cannot write"):
        action_format("react").print(Action("a", (SEARCH, SEARCH)))


@pytest.mark.parametrize("version", ["terminus_1", "terminus_2"])
def test_real_terminus_turns_are_kept_as_text(version: str) -> None:
    fmt = action_format("terminus")
    for turn in TURNS[version]:
        parsed = fmt.parse(turn)
        assert parsed.action == Action(turn)
        assert fmt.print(parsed.action) == turn
        try:
            expected = () if isinstance(json.loads(turn), dict) else ("not_an_object",)
        except ValueError:
            expected = ("prose",)
        assert parsed.problems == expected


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ('{"commands": []}', []),
        ('\n{"commands": []}\n\n', []),
        ("done", ["no_json"]),
        ('Here:\n{"commands": []}', ["prose"]),
        ('{"commands": []} Done.', ["text_after_call"]),
        ('```json\n{"commands": []}\n```', ["prose", "text_after_call"]),
        ("[]", ["not_an_object"]),
        ('{"commands": [}', ["bad_json"]),
        ('{"a": 1, "a": 2}', ["duplicate_keys"]),
        ('{"duration": NaN}', ["non_finite_number"]),
        ('{"a": ' * 99 + "1" + "}" * 99, ["too_deep"]),
        ('{"a":' * 100_000, ["bad_json"]),
        ("<think>{}", ["unclosed_think", "no_json"]),
    ],
)
def test_terminus_names_problems(text: str, problems: list[str]) -> None:
    parsed = action_format("terminus").parse(text)
    assert list(parsed.problems) == problems
    assert parsed.action == Action("" if "<think>" in text else text)


@pytest.mark.parametrize("turn", TURNS["webdancer"])
def test_real_webdancer_turns_survive(turn: str) -> None:
    fmt = action_format("webdancer")
    parsed = fmt.parse(turn)
    thought, body = turn.removeprefix("<think>").split("</think>")
    assert parsed.problems == ()
    assert parsed.reasoning == thought.strip()
    assert fmt.print(parsed.action) == body.strip()
    assert bool(parsed.action.calls) == ("<tool_call>" in turn)


W = '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "problems", "action"),
    [
        (W, [], Action("", (SEARCH,))),
        (f"{W}\n{W}", [], Action("", (SEARCH, SEARCH))),
        (f"I search.\n{W}", ["text_beside_call"], Action("I search.", (SEARCH,))),
        ("<answer>a</answer>\n", [], Action("<answer>a</answer>\n")),
        ("a", ["no_answer"], Action("a")),
        ("So: <answer>a</answer>", ["no_answer"], Action("So: <answer>a</answer>")),
        ("<answer>a", ["no_answer"], Action("<answer>a")),
        (
            "<answer>a</answer><answer>b</answer>",
            ["no_answer"],
            Action("<answer>a</answer><answer>b</answer>"),
        ),
        ("<tool_call>{</tool_call>", ["bad_json", "no_answer"], Action("")),
    ],
)
def test_webdancer_names_problems(text: str, problems: list[str], action: Action) -> None:
    parsed = action_format("webdancer").parse(text)
    assert list(parsed.problems) == problems
    assert parsed.action == action
