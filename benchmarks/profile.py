"""Candidates profiled per second on the carried trajectories: trees and drafts, against flat.

    python -m benchmarks.profile [--quick] [--model NAME] [--trajectories N] [--candidates N]
        [--trunk_tokens N] [--observation N] [--json FILE]

Flat sampling prefills a history once for every sample and decodes each on its own trunk; histories
are grouped by length, so that short ones are not padded to long ones. All sides use the same keys,
the settings of the laptop preset and as many slots, and draw the same samples up to rounding, which
`same_samples` counts. `--trunk_tokens` and `--observation` take longer trajectories than the laptop
preset; `--candidates` then keeps some turns of each, at equal distances. `--model` takes a Hugging
Face directory, such as the policy of a run: one that knows the experts' ways follows its drafts
further than the model as published. Prefilled tokens are counted without padding.
"""

import dataclasses
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.command import parser
from benchmarks.command import run as run_benchmark
from benchmarks.table import Row, report
from benchmarks.timing import medians
from experiments import swe
from experiments.context import PROFILE, Run, key_of, open_run
from experiments.settings import Settings
from experiments.stages.candidates import candidates_stage, read_stage
from pivotrl_jax.models import Params
from pivotrl_jax.pivots import Row as Tree
from pivotrl_jax.pivots import Turn, plan, rollouts
from pivotrl_jax.sampling import Request, Sample, sample
from pivotrl_jax.trees import round_up

TRAJECTORIES, QUICK_TRAJECTORIES = 8, 2
QUICK_LAYERS, QUICK_TOKENS, QUICK_SAMPLES = 4, 32, 4
GROUP = 256  # flat histories are padded to a multiple of this

Item = TypeVar("Item")
# Samples of every turn, by its id.
Samples = dict[str, list[Sample]]

TABLES = {
    "Profiling": (
        "model", "layers", "trajectories", "candidates", "samples", "seconds_flat",
        "seconds_tree", "seconds_drafts", "per_second_flat", "per_second_drafts",
        "speedup_tree", "speedup_drafts", "same_samples",
    ),
    "What was processed": (
        "history_mean", "prefill_flat", "prefill_tree", "prefill_ratio", "sampled_tokens",
        "drafted_tokens", "action_tokens_mean", "truncated_share",
    ),
}  # fmt: skip


def settings(
    model: str | None,
    quick: bool,
    trunk_tokens: int | None = None,
    observation: int | None = None,
) -> Settings:
    """The laptop preset with what is asked for; `quick` cuts layers, samples and the token cap."""
    base = swe.laptop()
    text = dataclasses.replace(
        base.text,
        trunk_tokens=trunk_tokens or base.text.trunk_tokens,
        clip_observation=observation or base.text.clip_observation,
    )
    base = dataclasses.replace(
        base, text=text, model=dataclasses.replace(base.model, name=model or base.model.name)
    )
    if not quick:
        return base
    sampling = dataclasses.replace(base.profile.sampling, max_tokens=QUICK_TOKENS)
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, layers=QUICK_LAYERS),
        profile=dataclasses.replace(base.profile, samples=QUICK_SAMPLES, sampling=sampling),
    )


def spaced(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, at equal distances, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def trees(turns: Sequence[Turn], trajectories: int, candidates: int | None) -> list[Tree]:
    """The turns of some trajectories, evenly taken from the one with most turns to the least; of
    each at most `candidates`."""
    chosen = spaced(plan(turns), trajectories)
    return [(trunk, spaced(part, candidates or len(part))) for trunk, part in chosen]


def without_drafts(rows: Sequence[Tree]) -> list[Tree]:
    """The same turns, with expert actions of no tokens to follow."""
    return [
        (trunk, [dataclasses.replace(turn, end=turn.start) for turn in part])
        for trunk, part in rows
    ]


def sample_trees(
    run: Run, params: Params, trunks: Sequence[np.ndarray], rows: Sequence[Tree]
) -> Samples:
    """As the profile stage samples."""
    how = run.settings.profile
    parts = rollouts(
        params, run.cfg, rows, trunks, how.samples, key_of(run, PROFILE), run.tokenizer,
        how.sampling, run.settings.engine, run.mesh,
    )  # fmt: skip
    return {
        turn.id: list(group)
        for part in parts
        for turn, group in zip(part.turns, part.samples, strict=True)
    }


def sample_flat(
    run: Run, params: Params, trunks: Sequence[np.ndarray], rows: Sequence[Tree]
) -> Samples:
    """Every sample on a trunk of its own that ends with its history."""
    how, engine = run.settings.profile, run.settings.engine
    alone = dataclasses.replace(engine, rows=engine.slots, row_multiple=GROUP)
    found: Samples = {turn.id: [] for _, part in rows for turn in part}
    for group in by_length([turn for _, part in rows for turn in part]):
        own = [(turn, k) for turn in group for k in range(how.samples)]
        requests = [
            [Request(start=t.start, end=t.start, candidate=zlib.crc32(t.id.encode()), sample=k)]
            for t, k in own
        ]
        histories = [trunks[turn.trunk][: turn.start] for turn, _ in own]
        served = sample(
            params, run.cfg, histories, requests, key_of(run, PROFILE), run.tokenizer.ends,
            how.sampling, alone, run.mesh,
        )  # fmt: skip
        for number, drawn in sorted(served, key=lambda pair: pair[0]):
            found[own[number][0].id] += drawn
    return found


def by_length(turns: Sequence[Turn]) -> list[list[Turn]]:
    groups: dict[int, list[Turn]] = {}
    for turn in turns:
        groups.setdefault(round_up(turn.start, GROUP), []).append(turn)
    return [groups[length] for length in sorted(groups)]


def row(
    run: Run, rows: Sequence[Tree], seconds: dict[str, float], drawn: dict[str, Samples]
) -> Row:
    """Rates and ratios, and the tokens behind them."""
    turns = [turn for _, part in rows for turn in part]
    samples = [s for turn in turns for s in drawn["drafts"][turn.id]]
    flat = [s for turn in turns for s in drawn["flat"][turn.id]]
    prefill_flat = run.settings.profile.samples * sum(turn.start for turn in turns)
    prefill_tree = sum(max(turn.end for turn in part) for _, part in rows)
    return {
        "model": run.settings.model.name,
        "layers": run.cfg.layers,
        "trajectories": len(rows),
        "candidates": len(turns),
        "samples": run.settings.profile.samples,
        **{f"seconds_{side}": value for side, value in seconds.items()},
        **{f"per_second_{side}": len(turns) / value for side, value in seconds.items()},
        "speedup_tree": seconds["flat"] / seconds["tree"],
        "speedup_drafts": seconds["flat"] / seconds["drafts"],
        "same_samples": share(
            np.array_equal(a.tokens, b.tokens) for a, b in zip(samples, flat, strict=True)
        ),
        "history_mean": float(np.mean([turn.start for turn in turns])),
        "prefill_flat": prefill_flat,
        "prefill_tree": prefill_tree,
        "prefill_ratio": prefill_flat / prefill_tree,
        "sampled_tokens": sum(len(s.tokens) for s in samples),
        "drafted_tokens": sum(s.drafted for s in samples),
        "action_tokens_mean": float(np.mean([len(s.tokens) for s in samples])),
        "truncated_share": share(s.truncated for s in samples),
    }


def share(flags: Iterator[bool]) -> float:
    return float(np.mean(list(flags)))


def measure(run: Run, trajectories: int, candidates: int | None, rounds: int) -> Iterator[Row]:
    corpus = candidates_stage(run, read_stage(run))
    params = run.base_params()
    rows = trees(corpus.turns["train"], trajectories, candidates)
    ways: dict[str, Callable[[], Samples]] = {
        "drafts": partial(sample_trees, run, params, corpus.trunks, rows),
        "tree": partial(sample_trees, run, params, corpus.trunks, without_drafts(rows)),
        "flat": partial(sample_flat, run, params, corpus.trunks, rows),
    }
    sides: dict[str, Any] = {
        name: (lambda carry, name=name, way=way: carry | {name: way()})
        for name, way in ways.items()
    }
    seconds, drawn = medians(sides, {}, rounds)
    yield row(run, rows, seconds, drawn)


def main() -> None:
    options = parser("profile", __doc__)
    options.add_argument("--model", help="as --config.model.name of a run takes it")
    options.add_argument("--trajectories", type=int, help="how many of the carried ones")
    options.add_argument("--candidates", type=int, help="how many turns of each (all)")
    options.add_argument("--trunk_tokens", type=int, help="the longest trajectory, in tokens")
    options.add_argument("--observation", type=int, help="tokens left of an observation")
    given = options.parse_args()
    trajectories = given.trajectories or (QUICK_TRAJECTORIES if given.quick else TRAJECTORIES)
    with tempfile.TemporaryDirectory() as scratch:
        asked = settings(given.model, given.quick, given.trunk_tokens, given.observation)
        rows = measure(
            open_run(asked, Path(scratch)), trajectories, given.candidates, given.rounds or 1
        )
        report("profile", TABLES, rows, given.json)


if __name__ == "__main__":
    run_benchmark(main)
