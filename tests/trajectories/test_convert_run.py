"""The selected pivots of a run, as rows."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pivotrl_jax.trajectories import EVERY_TURN, candidates, read
from pivotrl_jax.trajectories.__main__ import main

DATA = Path(__file__).parents[2] / "experiments" / "data"
GOOD = {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yo."}]}


def work_directory(
    path: Path,
    selected: dict[str, bool],
    rewards: dict[str, list[Any]],
    domains: Sequence[str] = "d",
) -> Path:
    """What a run leaves; `domains` in turn are those of the candidates."""
    (path / "select").mkdir(parents=True)
    (path / "profile" / "train").mkdir(parents=True)
    table = pa.table({
        "candidate_id": list(selected),
        "selected": list(selected.values()),
        "domain": list(itertools.islice(itertools.cycle(domains), len(selected))),
    })  # fmt: skip
    pq.write_table(table, path / "select" / "table.parquet")
    pairs = [(name, reward) for name, own in rewards.items() for reward in own]
    samples = pa.table({
        "candidate_id": [name for name, _ in pairs],
        "reward": pa.array([reward for _, reward in pairs], pa.float64()),
    })  # fmt: skip
    pq.write_table(samples, path / "profile" / "train" / "samples-00000.parquet")
    (path / "profile" / "train" / "manifest.json").write_text("{}")
    return path


def test_selected_pivots_of_a_run_with_their_pass_rates(tmp_path: Path, capsys: Any) -> None:
    file = DATA / "tool_use/tau2_sft_v1_small.jsonl.gz"
    ids = [c.id for t in read(file)[0] for c in candidates(t, EVERY_TURN, "train")[0]][:3]
    run = work_directory(
        tmp_path / "run",
        {ids[0]: True, ids[1]: False, ids[2]: True},
        {ids[0]: [1.0, 0.0, None, 1.0], ids[1]: [1.0], ids[2]: [0.0, 0.0]},
    )
    out = tmp_path / "rows.jsonl"
    command = ["convert", "--to", "nemo_gym", "--agent", "mine", "--run", str(run)]
    assert main([*command, str(file), str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["uuid"] for row in rows] == [ids[0], ids[2]]
    assert [(r["pass_rate"], r["pass_rate_total"], r["pass_rate_passed"]) for r in rows] == [
        (pytest.approx(2 / 3), 3, 2),
        (0.0, 2, 0),
    ]
    assert {row["agent_ref"]["name"] for row in rows} == {"mine"}
    assert "not_selected" in capsys.readouterr().out


def test_a_run_on_several_domains(tmp_path: Path, capsys: Any) -> None:
    # Ids of trajectories may hold slashes, and a domain may have one that looks like another's.
    row = {**GOOD, "id": "a/b"}
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps(row))
    command = ["convert", "--to", "nemo_gym", str(file), str(out), "--run"]
    run = work_directory(
        tmp_path / "run",
        {"one/a/b#0": True, "other/x#0": True, "one/y#0": False},
        {"one/a/b#0": [1.0, 0.0], "other/x#0": [1.0]},
        ("one", "other"),
    )
    assert main([*command, str(run)]) == 0
    assert json.loads(out.read_text())["pass_rate"] == 0.5
    both = work_directory(
        tmp_path / "both", {"one/a/b#0": True, "other/a/b#0": True}, {}, ("one", "other")
    )
    assert main([*command, str(both)]) == 2
    assert "two domains" in capsys.readouterr().err
    # Where there is one, its name is no prefix.
    alone = work_directory(tmp_path / "alone", {"a/b#0": True}, {"a/b#0": [1.0]}, ("a",))
    assert main([*command, str(alone)]) == 0
    assert json.loads(out.read_text())["pass_rate"] == 1.0


def test_a_run_that_does_not_fit_is_named(tmp_path: Path, capsys: Any) -> None:
    file, out = DATA / "tool_use/tau2_sft_v1_small.jsonl.gz", tmp_path / "rows.jsonl"
    command = ["convert", "--to", "nemo_gym", str(file), str(out), "--run"]
    assert main([*command, str(tmp_path / "none")]) == 2
    assert "holds no selected pivots" in capsys.readouterr().err
    run = work_directory(tmp_path / "run", {"other#1": True}, {"other#1": [1.0]})
    assert main([*command, str(run)]) == 2
    assert "none of the 1 selected pivots" in capsys.readouterr().err
