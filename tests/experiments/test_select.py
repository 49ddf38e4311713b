"""Selection of a run: eq. 5, then the caps on message turns."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments import tool_use
from experiments.context import open_run
from experiments.stages.candidates import candidates_stage, read_stage
from experiments.stages.rollouts import select_stage
from pivotrl_jax.pivots import Caps, candidate_table, kind


def test_messages_beyond_their_share_are_taken_back_easiest_first(tmp_path: Path) -> None:
    settings = dataclasses.replace(tool_use.smoke(), caps=Caps(message_share=0.25))
    run = open_run(settings, tmp_path)
    corpus = candidates_stage(run, read_stage(run))
    turns = corpus.turns["train"]
    rng = np.random.default_rng(0)
    samples = pa.table(
        {
            "candidate_id": np.repeat([turn.id for turn in turns], 4),
            "reward": np.concatenate([rng.permutation([1.0, 1.0, 0.0, 0.0]) for _ in turns]),
            "error": pa.nulls(4 * len(turns), pa.string()),
        }
    )
    select_stage(run, corpus, candidate_table(samples, corpus.table), tmp_path / "select")
    chosen = pq.read_table(tmp_path / "select" / "table.parquet")
    kinds = {turn.id: kind(turn.expert) for turn in turns}
    kept = [kinds[name] for name in chosen.filter(chosen["selected"])["candidate_id"].to_pylist()]
    tools = sum(own != "message" for own in kinds.values())
    assert kept.count("tool") + kept.count("batch") == tools > 0
    assert kept.count("message") == tools // 3
    audit = json.loads((tmp_path / "select" / "audit.json").read_text())
    assert audit["status"]["over_message_share"] == len(turns) - len(kept) > 0
