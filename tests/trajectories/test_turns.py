"""Which turns become candidates, and why the others do not."""

import dataclasses
from collections import Counter

from pivotrl_jax.trajectories import (
    BASH_TOOL,
    EVERY_TURN,
    SWE_TURN,
    Candidate,
    Message,
    ToolCall,
    Trajectory,
    TurnRule,
    candidates,
)

LS = ToolCall("bash", {"command": "ls"})
USER = Message("user", "Fix it.")


def trajectory(*messages: Message, tools: tuple = (BASH_TOOL,)) -> Trajectory:
    return Trajectory("t", messages, "task", "coding", "a.jsonl:1", tools)


def skipped(rule: TurnRule, *messages: Message, tools: tuple = (BASH_TOOL,)) -> Counter[str]:
    return candidates(trajectory(*messages, tools=tools), rule, "train")[1]


def test_carried_data_counts(mini: list[Trajectory], demos: list[Trajectory]) -> None:
    for rows, turns, failed in ((mini, 4661, 474), (demos, 105, 7)):
        found, reasons = 0, Counter[str]()
        for row in rows:
            kept, left_out = candidates(row, SWE_TURN, "train")
            found += len(kept)
            reasons += left_out
        assert reasons == {"failed_call": failed}
        assert found == turns - failed


def test_candidate_points_at_the_expert_message(mini: list[Trajectory]) -> None:
    row = mini[0]
    kept, _ = candidates(row, SWE_TURN, "heldout")
    assistants = [i for i, message in enumerate(row.messages) if message.role == "assistant"]
    assert kept[0] == Candidate(f"{row.id}#0", row.id, 0, 2, "heldout")
    assert all(assistants[candidate.turn] == candidate.message for candidate in kept)
    # The submission is the last message and has no result; it stays a candidate.
    assert kept[-1].message == len(row.messages) - 1


def test_every_turn_rule_keeps_failed_and_textual_turns(mini: list[Trajectory]) -> None:
    assert sum(len(candidates(row, EVERY_TURN, "train")[0]) for row in mini) == 4661


def test_reasons() -> None:
    def turn(*calls: ToolCall, text: str = "I look.") -> Message:
        return Message("assistant", text, calls)

    bad, good = Message("tool", "no", failed=True), Message("tool", "yes")
    assert skipped(SWE_TURN, USER, turn()) == {"no_tool_call": 1}
    assert skipped(EVERY_TURN, USER, turn(text=" \n")) == {"empty_action": 1}
    assert skipped(EVERY_TURN, turn(LS)) == {"no_history": 1}
    assert skipped(SWE_TURN, USER, turn(LS, LS), good, good) == {"several_calls": 1}
    assert skipped(SWE_TURN, USER, turn(LS), bad, turn(LS)) == {"failed_call": 1}
    assert skipped(SWE_TURN, USER, turn(LS), good, turn(LS), good) == {}
    both = TurnRule("parallel", succeeded=True)
    assert skipped(both, USER, turn(LS, LS), good, bad) == {"failed_call": 1}


def test_unknown_tool_skips_the_turn_and_keeps_the_trajectory() -> None:
    rm = Message("assistant", "", (ToolCall("rm", {}),))
    ls = Message("assistant", "", (LS,))
    kept, reasons = candidates(trajectory(USER, rm, USER, ls), EVERY_TURN, "train")
    assert reasons == {"unknown_tool": 1}
    assert [(candidate.turn, candidate.message) for candidate in kept] == [(1, 3)]
    assert skipped(EVERY_TURN, USER, rm, tools=()) == {}


def test_pivots_name_the_candidates_and_their_own_facts() -> None:
    turn = Message("assistant", "I look.")
    whole = trajectory(USER, turn, USER, turn, USER, turn)
    marked = dataclasses.replace(
        whole, facts={"db": "a", "rate": 1}, pivots={3: {"rate": 2}, 5: {}}
    )
    kept, reasons = candidates(marked, EVERY_TURN, "train")
    assert [(candidate.turn, candidate.message) for candidate in kept] == [(1, 3), (2, 5)]
    assert reasons == {"not_a_pivot": 1}
    assert [marked.before(i).facts["rate"] for i in (1, 3, 5)] == [1, 2, 1]
    assert marked.before(3).facts["db"] == "a"


def test_text_before_the_user_has_spoken_is_a_greeting() -> None:
    hello, system = Message("assistant", "Hello!"), Message("system", "Be kind.")
    assert skipped(EVERY_TURN, system, hello, USER, hello) == {"greeting": 1}
    assert skipped(EVERY_TURN, system, hello) == {}
    assert skipped(EVERY_TURN, system, Message("assistant", "", (LS,)), USER, hello) == {}
