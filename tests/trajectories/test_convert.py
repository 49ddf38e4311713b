"""The command line: files to other formats, what they could not hold, and what files hold."""

import dataclasses
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pivotrl_jax.trajectories import (
    Message,
    ToolCall,
    Trajectory,
    read,
)
from pivotrl_jax.trajectories.__main__ import main
from pivotrl_jax.trajectories.losses import losses
from pivotrl_jax.trajectories.nemo_gym_rules import validate

Write = Callable[..., Path]
DATA = Path(__file__).parents[2] / "experiments" / "data"
GOOD = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yo."}]}
EXAMPLES = Path(__file__).parent / "data"
FILES = [
    DATA / "swe/sweagent_demonstrations.jsonl.gz",
    DATA / "tool_use/tau2_success.jsonl.gz",
    DATA / "tool_use/tau2_sft_v1_small.jsonl.gz",
    DATA / "tool_use/apibank_dialogues.jsonl.gz",
    DATA / "tool_use/bfcl_multi_turn.jsonl.gz",
    DATA / "tool_use/bfcl_single_turn.jsonl.gz",
    DATA / "search/webdancer_sample_traj.jsonl.gz",
    DATA / "terminal/openthoughts_terminus2_pivots.jsonl.gz",
    DATA / "terminal/openthoughts_terminus2_trajectories.jsonl.gz",
    EXAMPLES / "nemo_gym_tool_pivot_examples.jsonl.gz",
    EXAMPLES / "nemo_gym_rollouts.jsonl.gz",
]


def same(one: Trajectory, other: Trajectory) -> bool:
    return dataclasses.replace(one, source="") == dataclasses.replace(other, source="")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.partition(".")[0])
def test_openai_chat_holds_everything(file: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "chat.jsonl"
    assert main(["convert", "--to", "openai_chat", str(file), str(out)]) == 0
    assert "not held nothing" in capsys.readouterr().out
    originals = read(file)[0]
    # Also when the format of the copy is told by its looks.
    for fmt in ("openai_chat", "auto"):
        copies = read(out, fmt)[0]
        assert all(same(*pair) for pair in zip(originals, copies, strict=True))
    assert not list(tmp_path.glob("*quarantine*"))


def sample(file: Path, folder: Path) -> Path:
    """The first rows of a file, with the contexts beside it."""
    for contexts in file.parent.glob("contexts.json.gz"):
        shutil.copy(contexts, folder)
    lines = gzip.decompress(file.read_bytes()).splitlines()[:60]
    path = folder / file.name.removesuffix(".gz")
    # Long dialogues with all their tools make pivot rows of megabytes.
    short = [line for line in lines if len(line) < 60_000]
    path.write_bytes(b"\n".join(short[:20] if len(short[0]) > 5_000 else short))
    return path


@pytest.mark.parametrize("full", FILES, ids=lambda file: file.name.partition(".")[0])
def test_pivot_rows_hold_every_turn_that_is_written(full: Path, tmp_path: Path) -> None:
    file = sample(full, tmp_path)
    out, again = tmp_path / "out" / "rows.jsonl", tmp_path / "out" / "again.jsonl"
    options = ["--to", "nemo_gym", "--calls", "batch"]
    assert main(["convert", *options, str(file), str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(validate(row, batches=True) == [] for row in rows)
    originals = {each.id: each for each in read(file)[0]}
    copies, audit = read(out)
    assert audit.sharing is not None
    assert audit.sharing.repeated == 0
    assert sum(len(copy.pivots or {}) for copy in copies) == len(rows)
    for copy in copies:
        original = originals[copy.id]
        assert (copy.task_id, copy.domain) == (original.task_id, original.domain)
        assert [m.action for m in copy.messages] == [
            m.action for m in original.messages[: len(copy.messages)]
        ]
        assert [m.reasoning for m in copy.messages] == [
            m.reasoning for m in original.messages[: len(copy.messages)]
        ]
    # Rows that were read and written again are the same rows.
    assert main(["convert", *options, str(out), str(again)]) == 0
    written = set(again.read_text().splitlines())
    assert written <= set(out.read_text().splitlines())
    assert len(written) == len(rows)


def test_what_rows_cannot_hold_is_counted(tmp_path: Path, capsys: Any) -> None:
    file = DATA / "tool_use/tau2_success.jsonl.gz"
    assert main(["convert", "--to", "nemo_gym", str(file), str(tmp_path / "rows.jsonl")]) == 0
    trajectories = read(file)[0]
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["read"] == "116 of 116 rows as 116 trajectories"
    assert lines["wrote"].startswith("894 pivot rows")
    assert lines["skipped"] == "116 greeting, 75 several_calls"
    lost = lines["not"]
    assert "191 turns that may become candidates" in lost
    failed = sum(m.failed for t in trajectories for m in t.messages)
    assert f"{failed} failed of a message" in lost


def test_losses_by_name() -> None:
    turn = Message("assistant", "Hi.", (ToolCall("ls", {}),), "So.")
    messages = (Message("user", "Go."), turn, Message("tool", "a", failed=True))
    whole = Trajectory("t", messages, "task", "d", "a:1", reward=1.0, facts={"db": "x"})
    assert losses([whole], [whole]) == {}
    assert losses([whole], []) == {"trajectories": 1}
    bare = (messages[0], dataclasses.replace(turn, reasoning=None, calls=()))
    copy = dataclasses.replace(whole, messages=bare, task_id="other", reward=None, facts={})
    assert losses([whole], [copy]) == {
        "task_id": 1,
        "reward": 1,
        "messages": 1,
        "calls of a message": 1,
        "reasoning of a message": 1,
        "fact 'db' of a turn": 1,
    }
    for parameters in ({}, {"parameters": {"type": "object", "properties": {}}, "strict": False}):
        tool = {"type": "function", "function": {"name": "ls", **parameters}}
        told = dataclasses.replace(whole, tools=(tool,))
        bare_tool = {"type": "function", "function": {"name": "ls"}}
        assert losses([told], [dataclasses.replace(whole, tools=(bare_tool,))]) == {}
        assert losses([told], [whole]) == {"tools": 1}
    unmarked = dataclasses.replace(whole, pivots={})
    assert losses([whole], [unmarked]) == {"turns that may become candidates": 1}


@pytest.mark.parametrize("profiled", [False, True])
@pytest.mark.parametrize("to", ["openai_chat", "nemo_gym"])
def test_what_no_trajectory_holds_is_told(
    to: str, profiled: bool, write: Write, tmp_path: Path, capsys: Any
) -> None:
    row = json.loads(gzip.decompress(FILES[-2].read_bytes()).splitlines()[3])
    items = row["responses_create_params"]["input"]
    thoughts = [item for item in items if item.get("type") == "reasoning"]
    thoughts[0]["encrypted_content"], thoughts[1]["encrypted_content"] = "gAAAA", None
    items.insert(0, {"role": "developer", "content": "Be kind."})
    path = write({"reward/mean": 0.5, "sample": row} if profiled else row)
    assert main(["convert", "--to", to, str(path), str(tmp_path / "out.jsonl")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["not"] == (
        "held 1 role developer, read as system, 1 encrypted_content of a reasoning"
    )
    chat = {"messages": [{"role": "developer", "content": "Be kind."}, *GOOD["messages"]]}
    assert main(["convert", "--to", to, str(write(chat)), str(tmp_path / "out.jsonl")]) == 0
    assert "not held 1 role developer" in capsys.readouterr().out


def test_a_batch_of_one_call_stays_one(write: Write, tmp_path: Path, capsys: Any) -> None:
    file = EXAMPLES / "nemo_gym_tool_pivot_parallel_examples.jsonl.gz"
    row = json.loads(gzip.decompress(file.read_bytes()).splitlines()[0])
    calls = row["expected_action"]["calls"][:1]
    row["expected_action"] = {"type": "function_call_batch", "ordered": False, "calls": calls}
    path, chat, out = write(row), tmp_path / "chat.jsonl", tmp_path / "out.jsonl"
    assert main(["convert", "--to", "openai_chat", str(path), str(chat)]) == 0
    for source in (path, chat):
        command = ["convert", "--to", "nemo_gym", str(source), str(out), "--calls"]
        assert main([*command, "batch"]) == 0
        assert "not held nothing" in capsys.readouterr().out
        written = json.loads(out.read_text())
        assert written["expected_action"] == row["expected_action"]
        assert "batch_of_one" not in written
        assert main([*command, "singular"]) == 0
        assert "1 fact 'batch_of_one' of a turn" in capsys.readouterr().out
        assert json.loads(out.read_text())["expected_action"] == calls[0]


def test_bad_rows_are_set_aside(write: Write, tmp_path: Path, capsys: Any) -> None:
    path, out = write(GOOD, b"{", {"messages": []}), tmp_path / "out" / "chat.jsonl"
    assert main(["convert", "--to", "openai_chat", str(path), str(out)]) == 0
    assert "bad      1 not_json, 1 empty_messages" in capsys.readouterr().out
    quarantine = out.with_name("chat.jsonl.quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in quarantine] == [2, 3]


def test_repeated_rows_are_told(write: Write, tmp_path: Path, capsys: Any) -> None:
    rows = gzip.decompress(FILES[-2].read_bytes()).splitlines()[:3]
    path, out = write(*rows, rows[1]), tmp_path / "out.jsonl"
    assert main(["convert", "--to", "nemo_gym", str(path), str(out)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["folded"].startswith("4 pivot rows into ")
    assert "(1 repeated)" in lines["folded"]


def test_errors_are_one_sentence(tmp_path: Path, capsys: Any) -> None:
    assert main(["inspect", str(tmp_path / "none.jsonl")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no trajectory file at")
    assert captured.err.count("\n") == 1


def test_inspect(capsys: Any) -> None:
    assert main(["inspect", str(DATA / "tool_use")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["rows"] == "1049: 1049 read, 0 bad, 0 blank"
    assert lines["formats"] == "717 bfcl, 187 api_bank, 116 tau2, 29 openai_chat"
    assert lines["candidates"] == "3076 turns, left out: 145 greeting"
    assert "folded" not in lines
    assert sum(int(part.split()[0]) for part in lines["depths"].split(", ")) == 3076
    assert sum(int(part.split()[0]) for part in lines["kinds"].split(", ")) == 3076
    assert lines["tools"].endswith("others")


def test_inspect_says_what_folding_achieved(capsys: Any) -> None:
    path = str(DATA / "terminal/openthoughts_terminus2_pivots.jsonl.gz")
    assert main(["inspect", "--from", "nemo_gym_pivot", path]) == 0
    out = capsys.readouterr().out
    assert "225 pivot rows into 43 trajectories (0 repeated); 1880 messages are 458" in out
    assert "tools         none" in out


def test_nemo_gym_is_one_name_for_reading_and_writing(tmp_path: Path) -> None:
    rows, rollouts = FILES[-2:]
    pivots = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for to, out in zip(("nemo_gym", "nemo_gym_pivot"), pivots, strict=True):
        assert main(["convert", "--from", "nemo_gym", "--to", to, str(rows), str(out)]) == 0
    assert pivots[0].read_bytes() == pivots[1].read_bytes()
    for path in (rows, rollouts):
        assert read(path, "nemo_gym")[0] == read(path)[0]


def test_unknown_formats_are_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["inspect", "--from", "openai", "a.jsonl"])
    assert "webdancer" in capsys.readouterr().err
