import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import Action, ToolCall
from pivotrl_jax.verifiers import Command, ToolName, verifier


def calls(*names: str) -> Action:
    return Action("", tuple(ToolCall(name, {}) for name in names))


@pytest.mark.parametrize(
    ("expert", "sampled", "expected"),
    [
        (calls("edit"), calls("edit"), (1, 1, 1)),
        (calls("edit"), calls("Edit"), (1, 1, 0)),
        (calls("edit"), calls("edit", "edit"), (1, 1, 0)),
        (calls("open", "edit"), calls("edit", "open"), (1, 1, 1)),
        (calls("edit"), Action("edit"), (1, 0, 0)),
    ],
)
def test_names_are_compared(expert: Action, sampled: Action, expected: tuple[int, ...]) -> None:
    verdict = ToolName()(expert, ParsedAction(sampled))
    assert tuple(verdict.criteria.values()) == expected
    assert tuple(verdict.criteria) == ToolName().criteria


def test_malformed_output_scores_zero() -> None:
    verdict = ToolName()(calls("edit"), ParsedAction(calls("edit"), ("bad_json",)))
    assert set(verdict.criteria.values()) == {0.0}
    assert verdict.reason == "bad_json"


def test_an_expert_without_a_call_is_an_error() -> None:
    assert ToolName()(Action("bye"), ParsedAction(calls("edit"))).error


def test_verifiers_are_found_by_name() -> None:
    assert verifier("command") == Command()
    assert verifier("tool_name") == ToolName()
    with pytest.raises(UserError, match="nearest is 'command'"):
        verifier("comand")
