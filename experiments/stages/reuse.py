"""Samples of another run, judged anew: another reward, verifier or judge without sampling again."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import from_first
from pivotrl_jax.pivots import (
    Judging,
    ProfileStore,
    Rollouts,
    Turn,
    judge,
    read_samples,
    sample_records,
)
from pivotrl_jax.sampling import Sample


def reuse(
    store: ProfileStore,
    directory: Path,
    manifest: Mapping[str, Any],
    turns: Sequence[Turn],
    judging: Judging,
) -> None:
    """Judges the samples that the store at `directory` has of `turns`, and appends them to `store`.

    Another policy's samples are none of this one's, and are left alone. UserError where anything
    else but the judging was another one there.
    """
    differing = from_first(lambda: _differing(directory, manifest))
    if "policy" in differing:
        # Of policies that were trained apart nothing else is to be expected.
        level = logging.WARNING if directory.parent.name == "profile" else logging.INFO
        logging.log(level, "%s is of another policy; sampling anew", directory)
        return
    if differing:
        raise UserError(
            f"the samples in {directory} were drawn with another {', '.join(differing)}; leave "
            "config.profile.samples_from unset, or name a run with the same"
        )
    by_turn = {turn.id: turn for turn in turns if turn.id not in store.done()}
    rows = from_first(lambda: read_samples(directory)).to_pylist()
    kept = (row for row in rows if row["candidate_id"] in by_turn)
    for name, group in itertools.groupby(kept, key=lambda row: row["candidate_id"]):
        store.append(_judged(by_turn[name], list(group), judging))


def _differing(directory: Path, manifest: Mapping[str, Any]) -> list[str]:
    try:
        there = json.loads((directory / "manifest.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{directory} holds no profile to take samples from ({error})") from error
    here = json.loads(json.dumps(manifest))
    names = sorted((here.keys() | there.keys()) - {"reward", "truncated"})
    return [name for name in names if here.get(name) != there.get(name)]


def _judged(
    turn: Turn, rows: Sequence[Mapping[str, Any]], judging: Judging
) -> Iterator[dict[str, Any]]:
    rows = sorted(rows, key=lambda row: row["sample"])
    # A store keeps the sum of the log-probs only, which is all that a record has of them.
    samples = [
        Sample(
            np.array(row["tokens"], np.int32),
            np.zeros(0),
            np.array([row["logp"]]),
            row["truncated"],
            row["drafted"],
        )
        for row in rows
    ]
    rollout = Rollouts([turn], [samples])
    return sample_records(rollout, judge(rollout, judging), judging)
