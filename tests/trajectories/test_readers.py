"""Bad input: good rows survive it, and every row is counted."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from pivotrl_jax.errors import UserError
from pivotrl_jax.trajectories import ReadAudit, Rejected, Trajectory, read, rows

Write = Callable[..., Path]

TURN = {"role": "assistant", "content": "Paris."}
CHAT = {"messages": [{"role": "user", "content": "Capital of France?"}, TURN]}


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [CHAT["messages"][0], *messages], **fields}


def assert_adds_up(audit: ReadAudit) -> None:
    assert audit.lines == audit.read + audit.quarantined + audit.blank
    assert sum(audit.reasons.values()) == audit.quarantined


def test_carried_data_is_read_whole(mini_file: Path) -> None:
    trajectories, audit = read(mini_file.parent)
    assert audit == ReadAudit(lines=72, read=72, quarantined=0, blank=0, reasons={})
    turns = [m for row in trajectories for m in row.messages if m.role == "assistant"]
    assert len(turns) == 4661 + 105
    assert {trajectory.domain for trajectory in trajectories} == {"coding"}
    assert len({trajectory.task_id for trajectory in trajectories}) == 62 + 3
    assert all(trajectory.reward == 1.0 for trajectory in trajectories)


def test_source_is_file_and_line(demos: list[Trajectory], demos_file: Path) -> None:
    assert [trajectory.source for trajectory in demos] == [
        f"{demos_file}:{i}" for i in range(1, 11)
    ]


@pytest.mark.parametrize("kept_share", [0.3, 0.7, 0.999])
def test_truncated_gzip_keeps_the_rows_before(
    demo_lines: list[bytes], tmp_path: Path, kept_share: float
) -> None:
    whole = gzip.compress(b"\n".join(demo_lines) + b"\n", mtime=0)
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: int(len(whole) * kept_share)])
    outcomes = list(rows(path))
    *before, last = outcomes
    assert isinstance(last, Rejected)
    assert last.reason == "truncated_file"
    assert last.line == len(outcomes)
    ids = [json.loads(line)["id"] for line in demo_lines]
    assert before
    assert [row.id for row in before if isinstance(row, Trajectory)] == ids[: len(before)]


def test_truncated_zstd_keeps_the_rows_before(demo_lines: list[bytes], tmp_path: Path) -> None:
    # One frame per row, as a writer that flushes leaves it; the cut is inside the last frame.
    frames = [zstandard.compress(line + b"\n") for line in demo_lines]
    path = tmp_path / "cut.jsonl.zst"
    path.write_bytes(b"".join(frames)[:-40])
    trajectories, audit = read(path)
    assert len(trajectories) == len(demo_lines) - 1
    assert audit.reasons == {"truncated_file": 1}
    assert_adds_up(audit)


def test_zstd_cut_inside_its_first_block_is_not_silent(
    demo_lines: list[bytes], tmp_path: Path
) -> None:
    path = tmp_path / "cut.jsonl.zst"
    path.write_bytes(zstandard.compress(demo_lines[0])[:100])
    with pytest.raises(UserError, match="1 truncated_file"):
        read(path)


def test_corrupted_gzip_ends_with_one_bad_row(demo_lines: list[bytes], tmp_path: Path) -> None:
    members = [gzip.compress(line + b"\n") for line in demo_lines[:3]]
    path = tmp_path / "broken.jsonl.gz"
    path.write_bytes(members[0] + members[1] + b"not gzip" + members[2])
    trajectories, audit = read(path)
    assert len(trajectories) == 2
    assert audit.reasons == {"truncated_file": 1}


def test_complete_compressed_files_read_as_the_plain_one(
    demo_lines: list[bytes], demos: list[Trajectory], tmp_path: Path
) -> None:
    text = b"\n".join(demo_lines) + b"\n"
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(text))
    for path in sorted(tmp_path.iterdir()):
        trajectories, audit = read(path)
        assert audit == ReadAudit(10, 10, 0, 0, {})
        assert [row.messages for row in trajectories] == [row.messages for row in demos]


def test_bom_crlf_and_blank_lines(write: Write) -> None:
    row = json.dumps(CHAT).encode()
    path = write(b"\xef\xbb\xbf" + row + b"\r", b"\r", b"", row + b"\r")
    trajectories, audit = read(path)
    assert audit == ReadAudit(lines=4, read=2, quarantined=0, blank=2, reasons={})
    assert [trajectory.source for trajectory in trajectories] == [f"{path}:1", f"{path}:4"]


BAD_ROWS: list[tuple[str, dict[str, Any] | bytes]] = [
    ("not_json", b'{"messages": [{"role": "user"'),
    ("not_json", b"[" * 100_000),
    ("not_utf8", json.dumps(CHAT).encode().replace(b"Paris", b"Par\xeds")),
    ("not_utf8", json.dumps(CHAT).encode().replace(b"Paris", rb"\uD83D")),
    ("not_an_object", b"[1, 2]"),
    ("unknown_format", {"prompt": "Capital of France?", "answer": "Paris."}),
    ("empty_messages", {"messages": []}),
    ("empty_messages", {"messages": None}),
    ("malformed_message", {"messages": ["Capital of France?"]}),
    ("no_assistant_turn", chat()),
    ("unknown_role", chat(TURN, {"role": "critic", "content": "No."})),
    ("content_not_text", chat({"role": "assistant", "content": [{"type": "image_url"}]})),
    ("malformed_tool_calls", chat({"role": "assistant", "tool_calls": [{"name": "bash"}]})),
    ("malformed_tool_calls", chat({"role": "assistant", "tool_calls": "bash"})),
    (
        "malformed_tool_calls",
        chat({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
    ),
    ("malformed_tools", chat(TURN, tools="bash")),
    ("malformed_tools", chat(TURN, tools=[{"type": "function", "function": {"name": ["ls"]}}])),
    ("duplicate_id", chat(TURN, id="first")),
]


@pytest.mark.parametrize(("reason", "bad"), BAD_ROWS)
def test_a_bad_row_goes_to_quarantine_between_good_ones(
    reason: str, bad: dict[str, Any] | bytes, write: Write, tmp_path: Path
) -> None:
    path = write(chat(TURN, id="first"), bad, chat(TURN, id="last"))
    quarantine = tmp_path / "read" / "quarantine.jsonl"
    trajectories, audit = read(path, quarantine=quarantine)
    assert [trajectory.id for trajectory in trajectories] == ["first", "last"]
    assert audit.reasons == {reason: 1}
    assert_adds_up(audit)
    (record,) = [json.loads(line) for line in quarantine.read_text().splitlines()]
    raw = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    assert record == {
        "file": str(path),
        "line": 2,
        "reason": reason,
        "text": raw.decode(errors="replace")[:500],
    }


def test_counts_add_up_over_many_bad_rows(demo_lines: list[bytes], write: Write) -> None:
    path = write(*demo_lines, b"", *(row for _, row in BAD_ROWS), *demo_lines)
    _, audit = read(path)
    assert (audit.read, audit.blank) == (11, 1)
    assert audit.reasons["duplicate_id"] == 10
    assert_adds_up(audit)


def test_limit_stops_reading(demos_file: Path, demos: list[Trajectory]) -> None:
    trajectories, audit = read(demos_file, limit=3)
    assert trajectories == demos[:3]
    assert audit.lines == 3


def test_directories_are_searched_recursively_and_sorted(write: Write, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write(CHAT, name="b.jsonl")
    write(CHAT, name="run/a.traj")
    write(CHAT, name="a.json")
    write(b"not a trajectory", name="notes.txt")
    trajectories, _ = read(tmp_path)
    names = [Path(trajectory.source).name for trajectory in trajectories]
    assert names == ["a.json:1", "b.jsonl:1", "a.traj:1"]
    assert [row.source for row in read(tmp_path / "*.json*")[0]] == [
        f"{tmp_path / 'a.json'}:1",
        f"{tmp_path / 'b.jsonl'}:1",
    ]


def test_nothing_found_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trajectory file at .*give a file"):
        read(tmp_path)


def test_no_good_row_names_the_reasons_and_still_writes_quarantine(
    write: Write, tmp_path: Path
) -> None:
    quarantine = tmp_path / "quarantine.jsonl"
    path = write(b"{", b"{", {"messages": []}, name="bad.jsonl")
    with pytest.raises(UserError, match="2 not_json, 1 empty_messages"):
        read(path, quarantine=quarantine)
    assert len(quarantine.read_text().splitlines()) == 3


def test_unknown_format_names_the_nearest(demos_file: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'swe_agent'"):
        read(demos_file, fmt="sweagent")
