"""Whatever a model writes: no crash, an end, and no default recipe is passed by garbage."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivotrl_jax.objectives.rewards import compile_recipe
from pivotrl_jax.text.actions import HermesTags, ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context, Message, ToolCall
from pivotrl_jax.verifiers import Verifier, verifier
from pivotrl_jax.verifiers.recipe import reward
from pivotrl_jax.verifiers.recipes import DEFAULT


def call(name: str, **arguments: Any) -> Action:
    return Action("", (ToolCall(name, arguments),))


EDIT = call("edit", path="/testbed/a.py", old_string="x = 1", new_string="x = 2")
ANSWER = Action(json.dumps({"analysis": "", "plan": "", "commands": [{"keystrokes": "ls -l\n"}]}))
EXPERTS = {
    "tool_call": [call("book", city="Oslo", seats=2), Action("Your order 77 was cancelled today.")],
    "search": [call("search", query="Oslo population"), call("finish", answer="Oslo"),
               call("visit", url=["http://a.b/c"]), Action("It is **Oslo**, as found.")],
    "terminal": [ANSWER],
    "edit": [EDIT, call("view", path="/testbed/a.py"), call("bash", command="pytest -q a.py")],
}  # fmt: skip
CASES = [(name, expert) for name, experts in EXPERTS.items() for expert in experts]
CONTEXT = Context(
    history=(Message("assistant", "", call("view", path="/testbed/a.py").calls),
             Message("tool", "     1\tx = 1\n     2\ty = 2")),
    tools=({"name": "book", "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"}, "seats": {"type": "integer"}}}},),
)  # fmt: skip


def judge(name: str, expert: Action, sampled: ParsedAction) -> bool:
    """Whether the sample passes the default recipe; checks the verdict's form."""
    chosen: Verifier = verifier(name)
    verdict = chosen(expert, sampled, CONTEXT)
    assert verdict.error is None, verdict.error
    assert tuple(verdict.criteria) == chosen.criteria
    assert all(0 <= score <= 1 for score in verdict.criteria.values())
    return reward(DEFAULT[name], verdict.criteria) == 1


@pytest.mark.parametrize("name", sorted(DEFAULT.keys() - {"textworld"}))  # which needs games
def test_the_default_recipes_name_criteria_that_exist(name: str) -> None:
    databases = "experiments/data/sql/intercode_spider_sqlite.tar.gz" if name == "sql" else None
    compile_recipe(DEFAULT[name], verifier(name, databases).criteria)


@pytest.mark.parametrize(("name", "expert"), CASES)
def test_the_expert_passes(name: str, expert: Action) -> None:
    assert judge(name, expert, ParsedAction(expert))
    assert not judge(name, expert, ParsedAction(expert, ("duplicate_keys",)))


def nested(depth: int) -> Any:
    value: Any = "x"
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def everywhere(value: Any) -> list[Callable[[Action], Action]]:
    """Ways to put `value` into the place of the expert's text or of its arguments."""

    def in_every_argument(expert: Action) -> Action:
        return Action("", tuple(ToolCall(c.name, dict.fromkeys(c.arguments, value))
                                for c in expert.calls))  # fmt: skip

    def beside(expert: Action) -> Action:
        return Action("", tuple(ToolCall(c.name, {**c.arguments, "more": value})
                                for c in expert.calls))  # fmt: skip

    def as_text(expert: Action) -> Action:
        return Action(value if isinstance(value, str) else str(type(value)))

    return [in_every_argument, beside, as_text]


PIECES = ["a ", "a", "1", "1.", '"', "'", "\\", "\n", "é\u0301", "\ud800", "[", "{", "<<E\n", "$(",
          "**a**", "http://a/?a=1&", "@@ -1 +1 @@\n", "+++ a\n", "     1\tx\n", "-", "(a", "x@",
          "?"]  # fmt: skip
VALUES = [nested(60), nested(5_000), float("nan"), float("inf"), 10**400, None, [], {}, "", True,
          [0] * 100_000, {str(i): i for i in range(50_000)}]  # fmt: skip


@pytest.mark.parametrize(("name", "expert"), CASES)
def test_values_of_no_sense(name: str, expert: Action) -> None:
    for value in VALUES:
        for place in everywhere(value):
            sampled = place(expert)
            if sampled == expert or (name == "edit" and place.__name__ == "beside"):
                continue  # another argument of an editing tool changes no file
            assert not judge(name, expert, ParsedAction(sampled)), (value, place)


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize(("name", "expert"), CASES)
def test_half_a_megabyte_is_judged(name: str, expert: Action, piece: str) -> None:
    text = piece * (500_000 // len(piece))
    for place in everywhere(text):
        sampled = place(expert)
        passed = judge(name, expert, ParsedAction(sampled))
        assert not passed or (name == "edit" and place.__name__ == "beside")


@pytest.mark.parametrize(("name", "expert"), CASES)
def test_a_thousand_calls_are_not_one(name: str, expert: Action) -> None:
    calls = (expert.calls or (ToolCall("book", {}),)) * 1_000
    assert not judge(name, expert, ParsedAction(Action("", calls)))


GARBAGE = st.text(max_size=60) | st.text(
    st.sampled_from('<>/tool_call{}":[]\\ue0,name1'), max_size=80
)


@settings(max_examples=60)
@given(GARBAGE)
def test_parsed_garbage_earns_nothing(text: str) -> None:
    for name, expert in CASES:
        sampled = HermesTags().parse(text)
        assert not judge(name, expert, sampled)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["command", "path", "old_string", "new_string", "content", "edits", "query",
                     "view_range", "insert_line", "offset", "limit", "url", "answer", "patch",
                     "city"]),
    VALUE, max_size=5,
)  # fmt: skip


@settings(max_examples=150)
@given(st.sampled_from(["edit", "view", "search", "visit", "finish", "book", "bash"]), ARGUMENTS)
def test_any_arguments_are_judged(tool: str, arguments: dict[str, Any]) -> None:
    sampled = Action("", (ToolCall(tool, arguments),))
    for name, expert in CASES:
        judge(name, expert, ParsedAction(sampled))
        if name != "terminal":
            verdict = verifier(name)(sampled, ParsedAction(expert), CONTEXT)
            assert verdict.error is None
