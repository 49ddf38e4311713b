"""Harmony, from the message structure that its documentation gives; chats are in test_chats.py."""

import pytest

from pivotrl_jax.text import action_format
from pivotrl_jax.trajectories.schema import Action, ToolCall

HARMONY = action_format("harmony")
CALL = ToolCall("get_order", {"id": "#1"})
NEXT = "<|end|><|start|>assistant"
THINK = "<|channel|>analysis<|message|>Look it up."
DONE = "<|channel|>final<|message|>It shipped."
MADE = '<|channel|>commentary to=functions.get_order <|constrain|>json<|message|>{"id": "#1"}'
PLAN = "<|channel|>commentary<|message|>First the order."


def test_actions_are_printed_as_documented() -> None:
    assert HARMONY.print(Action("It shipped.")) == DONE
    assert HARMONY.print(Action("", (CALL,))) == MADE
    assert HARMONY.print(Action("First the order.", (CALL,))) == f"{PLAN}{NEXT}{MADE}"


@pytest.mark.parametrize("end", ["", "<|call|>", "<|end|>"])
@pytest.mark.parametrize(
    ("text", "action", "reasoning"),
    [
        (MADE, Action("", (CALL,)), ""),
        (f"{THINK}{NEXT}{MADE}", Action("", (CALL,)), "Look it up."),
        (f"{THINK}{NEXT}{THINK}{NEXT}{DONE}", Action("It shipped."), "Look it up.\nLook it up."),
        (f"{THINK}{NEXT}{PLAN}{NEXT}{MADE}", Action("First the order.", (CALL,)), "Look it up."),
        (DONE, Action("It shipped."), ""),
        (
            ' to=functions.get_order<|channel|>commentary json<|message|>{"id":"#1"}',
            Action("", (CALL,)),
            "",
        ),
        (
            '<|channel|>commentary to=functions.get_order<|constrain|>json<|message|>{"id": "#1"}',
            Action("", (CALL,)),
            "",
        ),
    ],
)
def test_well_formed_turns_are_read(text: str, end: str, action: Action, reasoning: str) -> None:
    parsed = HARMONY.parse(text + end)
    assert parsed.action == action
    assert parsed.problems == ()
    assert parsed.reasoning == reasoning


ORDER = ToolCall("get_order", None)


@pytest.mark.parametrize(
    ("text", "problems", "action"),
    [
        ("", ["no_action"], Action()),
        ("It shipped.", ["no_channel", "no_action"], Action("It shipped.")),
        ("<|message|>It shipped.", ["no_channel", "no_action"], Action("It shipped.")),
        (THINK, ["no_action"], Action()),
        (PLAN, ["no_action"], Action("First the order.")),
        (
            "<|channel|>summary<|message|>It shipped.",
            ["unknown_channel", "no_action"],
            Action("It shipped."),
        ),
        (f"{MADE}<|call|>Hm.", ["text_between_messages"], Action("", (CALL,))),
        (f"{THINK}<|end|>{DONE}", ["text_between_messages", "no_action"], Action()),
        (f"{THINK}{DONE}", ["text_between_messages", "no_action"], Action()),
        (f"{MADE}{NEXT}{MADE}", ["text_after_action"], Action("", (CALL, CALL))),
        (f"{DONE}{NEXT}{THINK}", ["text_after_action"], Action("It shipped.")),
        (MADE.replace("commentary", "analysis"), ["wrong_channel"], Action("", (CALL,))),
        (
            MADE.replace("functions.", "browser."),
            ["unknown_recipient"],
            Action("", (ToolCall("browser.get_order", {"id": "#1"}),)),
        ),
        (MADE + "}", ["bad_json", "arguments_not_an_object"], Action("", (ORDER,))),
        (
            MADE.replace('{"id": "#1"}', "[1]"),
            ["arguments_not_an_object"],
            Action("", (ToolCall("get_order", [1]),)),
        ),
    ],
)
def test_problems_are_named(text: str, problems: list[str], action: Action) -> None:
    parsed = HARMONY.parse(text)
    assert list(parsed.problems) == problems
    assert parsed.action == action


@pytest.mark.parametrize(
    "action",
    [
        Action("", (CALL, CALL)),
        Action("ends<|end|>early"),
        Action("", (ToolCall("two words", {}),)),
    ],
)
def test_what_one_turn_cannot_hold_is_refused(action: Action) -> None:
    with pytest.raises(ValueError, match="cannot write"):
        HARMONY.print(action)
