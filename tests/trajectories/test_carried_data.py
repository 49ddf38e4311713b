"""The data that the repository carries is complete, small and says where it is from."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from pivotrl_jax.trajectories import EVERY_TURN, candidates, check_leaks, join_tasks, read, split

DATA = Path(__file__).parents[2] / "experiments" / "data"
FOLDERS = ("swe", "ood", "sql", "tool_use", "search", "terminal")
# File: format, trajectories, candidate turns, tasks.
CARRIED = {
    "tool_use/tau2_success": ("tau2", 116, 969, 116),
    "tool_use/tau2_sft_v1_small": ("openai_chat", 29, 304, 29),
    "tool_use/apibank_dialogues": ("api_bank", 187, 970, 187),
    "tool_use/bfcl_single_turn": ("bfcl", 657, 657, 639),
    "tool_use/bfcl_multi_turn": ("bfcl", 60, 176, 59),
    "search/fireact_gpt4_react": ("fireact", 1211, 2784, 1186),
    "search/webdancer_sample_traj": ("webdancer", 56, 114, 56),
    "terminal/openthoughts_terminus2_trajectories": ("terminus", 43, 225, 43),
    "terminal/openthoughts_terminus2_pivots": ("nemo_gym_pivot", 43, 225, 43),
}


@pytest.mark.parametrize(("name", "items"), [("gsm8k", 60), ("mmlu", 57), ("ifeval", 60)])
def test_out_of_domain_text(name: str, items: int) -> None:
    with gzip.open(DATA / "ood" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == items
    assert all(set(row) == {"id", "text"} and row["text"].strip() for row in rows)
    assert not any("<<" in row["text"] for row in rows if name == "gsm8k")


@pytest.mark.parametrize("name", CARRIED)
def test_trajectories(name: str) -> None:
    fmt, count, turns, tasks = CARRIED[name]
    trajectories, audit = read(DATA / f"{name}.jsonl.gz")
    assert (audit.quarantined, set(audit.formats)) == (0, {fmt})
    assert len({each.id for each in trajectories}) == len(trajectories) == count
    assert len({each.task_id for each in trajectories}) == tasks
    found = [candidates(each, EVERY_TURN, "train") for each in trajectories]
    assert sum(len(own) for own, _ in found) == turns
    left_out = sum((skipped for _, skipped in found), Counter[str]())
    assert set(left_out) <= {"greeting", "not_a_pivot"}
    calling = [t for t in trajectories if any(message.calls for message in t.messages)]
    assert all(each.tools for each in calling)


@pytest.mark.parametrize("name", CARRIED)
def test_a_split_by_task_leaks_nothing(name: str) -> None:
    trajectories = join_tasks(read(DATA / f"{name}.jsonl.gz")[0])
    part = split((each.task_id for each in trajectories), 0.3, seed=1)
    sides = {side: [t for t in trajectories if part[t.task_id] == side] for side in part.values()}
    check_leaks(sides["train"], sides["heldout"])


def test_every_data_file_stands_in_its_readme() -> None:
    files = [file for folder in FOLDERS for file in (DATA / folder).iterdir()]
    assert sum(file.stat().st_size for file in files) < 3_500_000
    for folder in FOLDERS:
        readme = (DATA / folder / "README.md").read_text(encoding="utf-8")
        files = sorted((DATA / folder).glob("*.gz"))
        assert files
        assert all(f"`{file.name}`" in readme for file in files)
        assert "Copyright" in readme
