"""What a run computed, from what its stages recorded."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.dataset import dataset

from experiments.reports.data import json_lines
from pivotrl_jax.models import ModelConfig, logical_axes, shapes
from pivotrl_jax.parallel.sharding import Axes

# FLOPs per parameter and token: a pass forward, one back to a frozen parameter's inputs as well,
# and one back to the parameter too.
FORWARD, FROZEN, UPDATE = 2, 4, 6
# FLOPs of so many per parameter, for tokens through the layers and for those scored by the head.
Passes = Callable[[int, float, float], float]


def multiplied(cfg: ModelConfig) -> dict[str, int]:
    """How many parameters a token meets: in the layers ("body": of the
    experts those that it goes through), and where its successor is asked
    for ("head"). Looking up an embedding multiplies nothing."""
    params, axes = shapes(cfg), logical_axes(cfg)

    def met(leaf: jax.ShapeDtypeStruct, names: Axes) -> int:
        every = math.prod(leaf.shape)
        if cfg.experts is None or "experts" not in names:
            return every
        return every // cfg.experts.number * cfg.experts.active

    body = sum(jax.tree.leaves(jax.tree.map(met, params.layers, axes.layers)))
    return {"body": body, "head": math.prod(params.embed.shape)}


def forward(cfg: ModelConfig, tokens: float, scored: float, pairs: float) -> float:
    """FLOPs of a pass forward: products with parameters, and attention to so many visible pairs."""
    found = multiplied(cfg)
    attention = 4 * cfg.layers * cfg.heads * cfg.head_dim * pairs
    return FORWARD * (tokens * found["body"] + scored * found["head"]) + attention


def flops(run: Path, profiled: Sequence[pa.Table]) -> dict[str, float]:
    """Of the profiles that pivots were chosen by (`profiles`), and of training: sampling, updates.

    Products with parameters only; those of attention are left out. Rows of updates count with their
    padding, and once, whatever was computed again to save memory. Sampling counts every token that
    was read or decoded. What adapters multiply is left out, too, and their base gets no gradients.
    """
    described = json.loads((run / "config.json").read_text())
    body, head = (described["multiplied"][name] for name in ("body", "head"))

    def passes(each: int, tokens: float, scored: float) -> float:
        return float(each * (tokens * body + scored * head))

    trained = FROZEN if described["config"].get("lora", {}).get("rank") else UPDATE
    pi_0 = FORWARD if described["config"]["objective"]["kl_coef"] else 0
    scored = {"sft": 0, "train": pi_0, "end_to_end": pi_0}
    rows = [(row, trained + also) for stage, also in scored.items() for row in steps(run, stage)]
    return {
        "profile": sum(_profile(run, samples, passes) for samples in profiled),
        "training": sum(_step(row, each, trained, passes) for row, each in rows),
    }


def _profile(run: Path, samples: pa.Table, passes: Passes) -> float:
    """Every trunk is read up to the end of its last candidate."""
    columns = ["split", "trunk", "history_tokens", "action_tokens"]
    ends: dict[int, int] = {}
    for row in pq.read_table(run / "candidates/candidates.parquet", columns=columns).to_pylist():
        if row["split"] == "train":
            end = row["history_tokens"] + row["action_tokens"]
            ends[row["trunk"]] = max(end, ends.get(row["trunk"], 0))
    decoded = total(samples, "length") - total(samples, "drafted")
    return passes(FORWARD, sum(ends.values()) + decoded, decoded)


def _step(row: Mapping[str, float], each: int, trained: int, passes: Passes) -> float:
    """The update of one step, and the sampling before it; SFT does not sample. The experts' tokens
    are scored by the trained policy only."""
    decoded = row.get("sampled_tokens", 0) - row.get("drafted_tokens", 0)
    return (
        passes(each, row["row_tokens"], row["action_tokens"])
        + passes(trained, 0, row.get("expert_tokens", 0))
        + passes(FORWARD, row.get("prefill_tokens", 0) + decoded, decoded)
    )


def profiles(run: Path) -> list[pa.Table]:
    """Lengths of the samples that pivots were chosen by, and how much of them was drafted: those of
    the first profile, and of each later one.

    Held-out turns are profiled as well, but for evaluation only.
    """
    stores = [sorted(store.glob("samples-*.parquet")) for store in run.glob("profile/**/train")]
    return [dataset(list(map(str, own))).to_table(["length", "drafted"]) for own in stores if own]


def total(table: pa.Table, column: str) -> int:
    return sum(table[column].to_pylist())


def steps(run: Path, stage: str) -> list[dict[str, Any]]:
    """The metrics of a stage's steps."""
    return json_lines(run / stage / "metrics.jsonl")
