"""Each format on real rows, and the older forms made from them."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pivotrl_jax.trajectories import BASH_TOOL, Message, ToolCall, Trajectory, read
from pivotrl_jax.trajectories import write_openai_chat as write_chat
from pivotrl_jax.trajectories.formats import (
    detect,
    mini_swe_agent,
    openai_chat,
    swe_agent,
    terminus,
)

Write = Callable[..., Path]


def test_formats_are_told_apart(demo_lines: list[bytes], mini_row: dict[str, Any]) -> None:
    assert detect(mini_row) == "mini_swe_agent"
    assert {detect(json.loads(line)) for line in demo_lines} == {"swe_agent"}
    assert detect({"history": mini_row["messages"]}) == "swe_agent"
    assert detect({"messages": mini_row["messages"][:3]}) == "openai_chat"


def test_conversations_are_messages(carried: Callable[[str], list[dict[str, Any]]]) -> None:
    row = carried("terminal/openthoughts_terminus2_trajectories")[0]
    plain = {"messages": row["messages"]}
    renamed = {"conversations": row["messages"], "task": "regex-log"}
    assert detect(renamed) == detect(plain) == "terminus"
    found, other = terminus(renamed, "a:1"), terminus(plain, "a:1")
    assert (found.messages, found.pivots) == (other.messages, other.pivots)
    assert found.task_id == "regex-log"
    short = {"conversations": [*row["messages"][:1], {"role": "assistant", "content": "Hi."}]}
    assert detect(short) == "openai_chat"
    assert len(openai_chat(short, "a:1").messages) == 2


def test_mini_swe_agent_calls_results_and_tool(mini: list[Trajectory]) -> None:
    assert all(trajectory.tools == (BASH_TOOL,) for trajectory in mini)
    messages = [message for trajectory in mini for message in trajectory.messages]
    calls = [call for message in messages for call in message.calls]
    assert len(calls) == 4661
    assert all(call.name == "bash" and set(call.arguments) == {"command"} for call in calls)
    failed = Counter(message.failed for message in messages if message.role == "tool")
    # 451 + 10 + 4 + 3 + 2 + 1 return codes that are not 0, and 3 commands that timed out.
    assert failed == {False: 4125, True: 474}


def older_form(row: dict[str, Any]) -> dict[str, Any]:
    """The row as mini-swe-agent 1 wrote it: commands fenced in the content, results as user."""
    entries = []
    for entry in row["messages"]:
        content = entry["content"]
        for call in entry.get("tool_calls", ()):
            command = json.loads(call["function"]["arguments"])["command"]
            content += f"\n\n```bash\n{command}\n```"
        role = "user" if entry["role"] == "tool" else entry["role"]
        entries.append({"role": role, "content": content, "timestamp": 0.5})
    exit_entry = {"role": "exit", "content": row["submission"]}
    return {"trajectory_format": "mini-swe-agent-1", "messages": [*entries, exit_entry]}


def test_older_mini_swe_agent_reads_to_the_same_calls(mini_row: dict[str, Any]) -> None:
    new = mini_swe_agent(mini_row, "new.jsonl:1")
    old_row = older_form(mini_row)
    assert detect(old_row) == "mini_swe_agent"
    old = mini_swe_agent(old_row, "runs/marshmallow-1343.traj.json:1")
    assert old.task_id == "marshmallow-1343"
    assert [message.calls for message in old.messages] == [
        message.calls for message in new.messages
    ]
    assert [message.failed for message in old.messages] == [m.failed for m in new.messages]
    for before, after in zip(new.messages, old.messages, strict=True):
        assert after.content.strip() == before.content.strip()


def test_fenced_turn_needs_exactly_one_block() -> None:
    fence = "```bash\nls\n```"
    entries = [
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": f"Either {fence} or {fence}"},
        {"role": "user", "content": "Give exactly one command."},
        {"role": "assistant", "content": f"THOUGHT: look.\n\n{fence}"},
        {"role": "user", "content": "The last command <command>ls</command> timed out"},
    ]
    messages = mini_swe_agent({"messages": entries}, "a.jsonl:1").messages
    assert messages[1].calls == ()
    assert messages[3].calls == (ToolCall("bash", {"command": "ls"}),)
    assert messages[3].content == "THOUGHT: look."
    assert [message.failed for message in messages] == [False, False, False, False, True]


def test_swe_agent_actions_become_bash_calls(demos: list[Trajectory]) -> None:
    function_calling = [trajectory for trajectory in demos if not trajectory.tools]
    assert len(function_calling) == 4
    assert "function_calling" in function_calling[0].id
    assert function_calling[0].messages[2].calls == (
        ToolCall("find_file", {"file_name": "missing_colon.py"}),
    )
    texts = [trajectory for trajectory in demos if trajectory.tools == (BASH_TOOL,)]
    assert len(texts) == 6
    turns = [m for trajectory in texts for m in trajectory.messages if m.role == "assistant"]
    assert all(len(turn.calls) == 1 and turn.calls[0].name == "bash" for turn in turns)
    assert turns[0].calls[0].arguments == {"command": "ls -a"}
    assert not any("```" in turn.content or "<command>" in turn.content for turn in turns)
    # The linter refused seven edits; SWE-agent states no other failure.
    assert sum(message.failed for trajectory in demos for message in trajectory.messages) == 7


def test_native_traj_file_reads_like_the_demonstration(
    demo_lines: list[bytes], demos: list[Trajectory], tmp_path: Path
) -> None:
    row = json.loads(demo_lines[1])
    pasted = {"role": "user", "content": "Here is a demonstration.", "is_demo": True}
    history = [row["messages"][0], pasted, *row["messages"][1:]]
    path = tmp_path / "humaneval-0.traj"
    path.write_text(json.dumps({"history": history, "trajectory": [], "info": {}}, indent=2))
    (trajectory,), _ = read(path)
    assert trajectory.messages == demos[1].messages
    assert trajectory.task_id == "humaneval-0"
    assert trajectory.id == f"{path}:1"


def test_openai_chat_parts_arguments_reasoning_and_tools() -> None:
    call = {"function": {"name": "bash", "arguments": {"command": "ls"}}}
    empty = {"function": {"name": "bash", "arguments": ""}}
    row = {
        "tools": [BASH_TOOL],
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call, empty]},
            {"role": "tool", "content": "x", "failed": True},
            {"role": "assistant", "content": "Done.", "reasoning_content": "It is."},
        ],
    }
    trajectory = openai_chat(row, "a.jsonl:7")
    assert trajectory.messages == (
        Message("system", "Be brief."),
        Message("user", "ab"),
        Message("assistant", "", (ToolCall("bash", {"command": "ls"}), ToolCall("bash", {}))),
        Message("tool", "x", failed=True),
        Message("assistant", "Done.", reasoning="It is."),
    )
    assert (trajectory.id, trajectory.domain) == ("a.jsonl:7", "general")
    assert trajectory.tools == (BASH_TOOL,)


def test_rows_without_a_task_are_grouped_by_prompt(write: Write) -> None:
    def row(question: str, answer: str) -> dict[str, Any]:
        greeting = {"role": "assistant", "content": "How can I help?"}
        user = {"role": "user", "content": question}
        return {"messages": [greeting, user, {"role": "assistant", "content": answer}]}

    (a, b, c), _ = read(write(row("2+2?", "4"), row("2+2?", "four"), row("3+3?", "6")))
    assert a.task_id == b.task_id != c.task_id
    assert len({a.id, b.id, c.id}) == 3


def test_writing_and_reading_back_keeps_everything_but_the_source(
    mini: list[Trajectory], demos: list[Trajectory], tmp_path: Path
) -> None:
    path = tmp_path / "out" / "chat.jsonl"
    originals = [*mini[:5], *demos]
    write_chat(originals, path)
    copies, audit = read(path, fmt="openai_chat")
    assert audit.read == len(originals)
    for copy, original in zip(copies, originals, strict=True):
        assert {**vars(copy), "source": ""} == {**vars(original), "source": ""}


def test_written_calls_and_results_share_ids(demos: list[Trajectory], tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    write_chat(demos[:1], path)
    entries = json.loads(path.read_text())["messages"]
    asked = [call["id"] for entry in entries for call in entry.get("tool_calls", ())]
    answered = [entry["tool_call_id"] for entry in entries if entry["role"] == "tool"]
    assert len(asked) == 5
    assert asked == answered


def test_swe_agent_row_forced_to_chat_keeps_its_text(demo_lines: list[bytes]) -> None:
    row = json.loads(demo_lines[1])
    as_chat, as_agent = openai_chat(row, "a:1"), swe_agent(row, "a:1")
    assert as_chat.messages[2].content == row["messages"][2]["content"]
    assert as_chat.messages[2].calls == ()
    assert as_agent.messages[2].calls
