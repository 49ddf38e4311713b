"""Terminus, ATIF, FireAct, WebDancer and OpenHands, on real trajectories."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pivotrl_jax.trajectories import BASH_TOOL, EVERY_TURN, Message, ToolCall, candidates
from pivotrl_jax.trajectories.coding import mini_swe_agent, openhands
from pivotrl_jax.trajectories.formats import detect
from pivotrl_jax.trajectories.parsing import BadRow
from pivotrl_jax.trajectories.schema import Trajectory
from pivotrl_jax.trajectories.search import REACT_TOOLS, fireact, webdancer
from pivotrl_jax.trajectories.terminal import atif, harness, terminus

Rows = Callable[[str], list[dict[str, Any]]]
TERMINUS = "terminal/openthoughts_terminus2_trajectories"


def test_terminus_turns_stay_text_and_prose_is_history_only(carried: Rows) -> None:
    rows = carried(TERMINUS)
    assert {detect(row) for row in rows} == {"terminus"}
    left_out = []
    for row in rows:
        found = terminus(row, "a:1")
        assert found.facts["harness"] == "terminus_2"
        assert [m.content for m in found.messages] == [e["content"] for e in row["messages"]]
        turns = {i for i, m in enumerate(found.messages) if m.role == "assistant"}
        bad = turns - set(turns if found.pivots is None else found.pivots)
        left_out += [found.messages[i].content for i in bad]
        assert len(candidates(found, EVERY_TURN, "train")[0]) == len(turns) - len(bad)
    assert len(left_out) == 4
    assert not any(text.startswith("{") for text in left_out)


def test_terminus_thought_is_reasoning() -> None:
    answer = '{"state_analysis": "", "explanation": "", "commands": []}'
    entries = [
        {"role": "user", "content": "$"},
        {"role": "assistant", "content": f"<think>\nLook.\n</think>\n\n{answer}"},
    ]
    assert detect({"messages": entries}) == "terminus"
    found = terminus({"messages": entries}, "a:1")
    assert found.messages[1] == Message("assistant", answer, reasoning="Look.")
    assert found.facts["harness"] == "terminus_1"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ('{"analysis": "", "plan": "", "commands": []}', "terminus_2"),
        ('{"state_analysis": "", "explanation": "", "commands": []}', "terminus_1"),
        ('{"commands": []}', None),
        ('{"analysis": "", "commands": "ls"}', None),
        ('[{"analysis": ""}]', None),
        ('{"analysis": "", "commands": [', None),
        ('{"a":' * 100_000, None),
        ("ls", None),
    ],
)
def test_harness_of_an_answer(answer: str, kind: str | None) -> None:
    assert harness(answer) == kind


def as_atif(row: dict[str, Any]) -> dict[str, Any]:
    """A mini-swe-agent row as Harbor would log it."""
    steps: list[dict[str, Any]] = []
    for entry in row["messages"]:
        if entry["role"] == "tool":
            result = {"source_call_id": entry["tool_call_id"], "content": entry["content"]}
            steps[-1].setdefault("observation", {"results": []})["results"].append(result)
            continue
        calls = [
            {
                "tool_call_id": call["id"],
                "function_name": call["function"]["name"],
                "arguments": json.loads(call["function"]["arguments"]),
            }
            for call in entry.get("tool_calls", ())
        ]
        source = "agent" if entry["role"] == "assistant" else entry["role"]
        step = {"step_id": len(steps) + 1, "source": source, "message": entry["content"]}
        steps.append({**step, "tool_calls": calls} if calls else step)
    agent = {"name": "mini-swe-agent", "version": "2", "tool_definitions": [BASH_TOOL]}
    return {"schema_version": "ATIF-v1.6", "session_id": row["id"], "agent": agent, "steps": steps}


def test_atif_reads_to_the_same_messages(mini_row: dict[str, Any]) -> None:
    document = as_atif(mini_row)
    assert detect(document) == "atif"
    found = atif(document, "runs/a/trajectory.json:1")
    plain = mini_swe_agent(mini_row, "a:1")
    # ATIF has no field for a failed command.
    assert [(m.role, m.content, m.calls) for m in found.messages] == [
        (m.role, m.content, m.calls) for m in plain.messages
    ]
    assert (found.id, found.tools, found.domain) == (mini_row["id"], (BASH_TOOL,), "terminal")
    assert found.facts == {"agent": {"name": "mini-swe-agent", "version": "2"}}
    # The name of the document, which all have, is not the task.
    assert found.task_id == atif(document, "runs/b/trajectory.json:1").task_id
    assert found.task_id.startswith("prompt-")


def test_atif_reasoning_parts_and_copied_steps() -> None:
    steps = [
        {"source": "user", "message": [{"type": "text", "text": "Fix it."}]},
        {"source": "agent", "message": "Old.", "is_copied_context": True},
        {
            "source": "agent",
            "message": "New.",
            "reasoning_content": "So.",
            "observation": {"results": [{"content": "$"}]},
        },
    ]
    found = atif({"schema_version": "ATIF-v1.2", "steps": steps}, "a:1")
    assert found.messages[2:] == (
        Message("assistant", "New.", reasoning="So."),
        Message("user", "$"),
    )
    assert candidates(found, EVERY_TURN, "train")[1] == {"not_a_pivot": 1}


STEP = {"source": "agent", "message": "Hi."}


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("unknown_role", {**STEP, "source": "critic"}),
        ("unknown_role", {**STEP, "source": ["agent"]}),
        ("malformed_tool_calls", {**STEP, "tool_calls": "ls"}),
        ("malformed_tool_calls", {**STEP, "tool_calls": [{"function_name": 1, "arguments": {}}]}),
        ("malformed_message", {**STEP, "observation": "done"}),
        ("malformed_message", {**STEP, "observation": {"results": "done"}}),
        ("content_not_text", {**STEP, "message": [{"type": "image"}]}),
    ],
)  # fmt: skip
def test_malformed_steps(reason: str, step: dict[str, Any]) -> None:
    with pytest.raises(BadRow, match=reason):
        atif({"schema_version": "ATIF-v1.6", "steps": [STEP, step]}, "a:1")


def test_fireact(carried: Rows) -> None:
    rows = carried("search/fireact_gpt4_react")
    found = [fireact(row, "a:1") for row in rows]
    calls = [call for each in found for message in each.messages for call in message.calls]
    assert [len([c for c in calls if c.name == n]) for n in ("search", "finish")] == [1573, 1211]
    for row, each in zip(rows, found, strict=True):
        last = each.messages[-2]
        assert last.calls == (ToolCall("finish", {"answer": row["final_answer"]}),)
        assert each.tools == REACT_TOOLS
        assert each.facts["question"] == row["question"]
        for entry, message in zip(row["messages"], each.messages, strict=True):
            if message.role == "assistant":
                (call,) = message.calls
                (argument,) = call.arguments.values()
                line = f"Thought: {message.content}\nAction: {call.name}[{argument}]"
                assert line == entry["content"].rstrip()
            elif message.role == "tool":
                assert f"Observation: {message.content}" == entry["content"]


@pytest.mark.parametrize(
    "content", ["Thought: I know.", "Action: look[it]", "Action: search[it", "search[it]", ""]
)
def test_no_react_action(content: str) -> None:
    entries = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    with pytest.raises(BadRow, match="no_react_action"):
        fireact({"messages": entries}, "a:1")


def test_webdancer(carried: Rows) -> None:
    rows = carried("search/webdancer_sample_traj")
    for row in rows:
        assert detect(row) == "webdancer"
        found = webdancer(row, "a:1")
        turns = [message for message in found.messages if message.role == "assistant"]
        assert all(turn.reasoning and "think>" not in turn.reasoning for turn in turns)
        assert all(turn.calls and not turn.content for turn in turns[:-1])
        assert turns[-1].content.startswith("<answer>")
        assert turns[-1].content.endswith("</answer>")
        results = [message for message in found.messages if message.role == "tool"]
        assert len(results) == len(turns) - 1
        assert not any("tool_response" in result.content for result in results)
        assert [tool["function"]["name"] for tool in found.tools] == ["search", "visit"]
        assert found.facts["answer"] == row["answer"]


def test_webdancer_call_that_is_no_json() -> None:
    content = "<think>\nSo.\n</think>\n<tool_call>\n{search}\n</tool_call>"
    entries = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    with pytest.raises(BadRow, match="malformed_tool_calls"):
        webdancer({"messages": entries}, "a:1")


def as_openhands(row: dict[str, Any], read: Trajectory) -> dict[str, Any]:
    """A mini-swe-agent row as OpenHands logs it: its tool, parts of content, exit codes."""
    entries = []
    for entry, message in zip(row["messages"], read.messages, strict=True):
        content = entry["content"]
        if entry["role"] == "tool":
            content += f"\n[The command completed with exit code {int(message.failed)}.]"
        calls = json.loads(json.dumps(entry.get("tool_calls", [])))
        for call in calls:
            call["function"]["name"] = "execute_bash"
        parts = [{"type": "text", "text": content}]
        entries.append({"role": entry["role"], "content": parts, "tool_calls": calls})
    tools = [{"type": "function", "function": {"name": "execute_bash"}}]
    return {"instance_id": "a-1", "trajectory": entries, "tools": tools, "resolved": True}


def test_openhands_calls_and_exit_codes(mini_row: dict[str, Any]) -> None:
    plain = mini_swe_agent(mini_row, "a:1")
    row = as_openhands(mini_row, plain)
    found = openhands(row, "a:1")
    assert [m.failed for m in found.messages] == [m.failed for m in plain.messages]
    assert any(m.failed for m in found.messages)
    made = [call for message in found.messages for call in message.calls]
    assert [c.arguments for c in made] == [c.arguments for m in plain.messages for c in m.calls]
    assert (found.task_id, found.reward, len(found.tools)) == ("a-1", 1.0, 1)
    assert detect(row) == "openhands"
    renamed = {"messages": row["trajectory"], "kwargs": {"tools": row["tools"]}}
    assert detect(renamed) == "openhands"
    assert openhands(renamed, "a:1").tools == found.tools


def test_openhands_editor_errors_fail() -> None:
    call = {"function": {"name": "str_replace_editor", "arguments": "{}"}}
    entries = [
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "ERROR:\nNo replacement was performed."},
    ]
    assert openhands({"messages": entries}, "a:1").messages[2].failed
