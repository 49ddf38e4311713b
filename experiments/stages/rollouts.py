"""Profile and selection: K samples of every candidate, and which of them are pivots."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pyarrow as pa
import pyarrow.compute as pc
from absl import logging

from experiments.artifacts import write_json, write_table
from experiments.context import Run
from experiments.progress import Progress, StageRecord
from experiments.settings import Settings
from experiments.stages.candidates import Corpus
from experiments.stages.reuse import reuse
from pivotrl_jax.errors import UserError
from pivotrl_jax.models import Params
from pivotrl_jax.parallel import fetch, from_first
from pivotrl_jax.pivots import (
    ProfileStore,
    Truncated,
    Turn,
    audit,
    candidate_table,
    cap,
    judged_aside,
    kind,
    nothing_selected,
    plan,
    read_samples,
    rollouts,
    sample_records,
    select,
    verdict_thread,
)
from pivotrl_jax.training import Abandoned


def profile_stage(
    run: Run,
    corpus: Corpus,
    params: Params,
    name: str,
    turns: Sequence[Turn],
    key: jax.Array,
    samples: int,
    truncated: Truncated | None = None,
) -> pa.Table:
    """Samples and judges K actions per turn into the store `name`; returns its candidate table.

    `truncated` overrides the settings of the domains. Samples of another run are taken where the
    settings say so. Resumes where a killed run stopped. The store
    is pinned to the policy, the candidates and the settings that its samples depend on.
    """
    manifest = _manifest(run, params, turns) | {"samples": samples, "truncated": truncated}
    store = ProfileStore(run.workdir / name, manifest)
    judging = run.judging(truncated)
    if run.settings.profile.samples_from is not None:
        other = Path(run.settings.profile.samples_from)
        # A run that profiled once has nothing for later profiles; one without any is a mistake.
        if from_first(lambda: (other / name).exists() or not (other / "profile/train").exists()):
            reuse(store, other / name, manifest, turns, judging)
    done, engine, watch = store.done(), run.settings.engine, run.watch
    with (
        Progress(name, len(turns), "candidates", initial=len(done)) as bar,
        verdict_thread() as thread,
        watch.listening(),
    ):
        batches = rollouts(
            params,
            run.cfg,
            plan(turns),
            corpus.trunks,
            samples,
            key,
            run.tokenizer,
            run.settings.profile.sampling,
            engine,
            run.mesh,
            done,
            device=watch,
        )
        try:
            # Trunks that are decoded together end at about the same time.
            for batch, judged in judged_aside(batches, judging, thread, ahead=engine.rows):
                # A signal to all processes may have ended those of a verifier.
                watch.check()
                store.append(sample_records(batch, judged, judging))
                bar.advance(len(batch.turns))
        except Abandoned:
            kept = f"{len(store.done())} of {len(turns)} candidates"
            raise watch.stopped(f"in {name}; the samples of {kept} are saved") from None
    return candidate_table(store.read(), corpus.table)


def _manifest(run: Run, params: Params, turns: Sequence[Turn]) -> dict[str, Any]:
    settings = run.settings
    candidates = hashlib.sha256("\n".join(f"{t.id} {t.start} {t.end}" for t in turns).encode())
    # Profiles from before there was a choice are float32 and say nothing.
    precision = run.cfg.matmul_precision
    return ({} if precision == "float32" else {"matmul_precision": precision}) | {
        # Of a large model a minute's reading, which one process does for all.
        "model": from_first(lambda: run.pretrained.fingerprint),
        "policy": fingerprint(params),
        "tokenizer": run.tokenizer.fingerprint,
        "template": {name: own.template.fingerprint for name, own in run.domains.items()},
        "candidates": candidates.hexdigest(),
        "sampling": dataclasses.asdict(settings.profile.sampling),
        "reward": rewards(settings),
        "seed": settings.seed,
    }


def rewards(settings: Settings) -> dict[str, Any]:
    """What decides the rewards of samples, by domain; training's updates have no part in these."""
    own = {name: domain.reward for name, domain in settings.domains.items()}
    judged = {name: dataclasses.replace(reward, updates=()) for name, reward in own.items()}
    return {name: dataclasses.asdict(reward) for name, reward in judged.items()}


@jax.jit
def _sums(params: Params) -> jax.Array:
    return jnp.stack([_bit_sum(x) for x in jax.tree.leaves(params)])


def _bit_sum(x: jax.Array) -> jax.Array:
    """Sum of a hash (MurmurHash3's last steps) of every value's bits and place.

    Integers wrap around, so that the sum is the same in whatever order devices add it up.
    """
    mixed = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
    for axis in range(x.ndim):
        place = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        mixed += place * jnp.uint32(math.prod(x.shape[axis + 1 :]) * 0x9E3779B9 % 2**32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed, dtype=jnp.uint32)


def fingerprint(params: Params) -> str:
    """Tells one checkpoint of a policy from another: a hash over sums of every leaf's bits.

    Meshes and numbers of processes do not change it.
    """
    return hashlib.sha256(fetch(_sums(params)).tobytes()).hexdigest()


def count_tokens(run: Run, record: StageRecord, *names: str) -> None:
    """Notes the samples of these stores, their tokens, and how many of those were drafted."""
    for name in names:
        samples = from_first(partial(read_samples, run.workdir / name))
        record.tokens += sum(samples["length"].to_pylist())
        record.drafted += sum(samples["drafted"].to_pylist())
        record.samples += len(samples)


def select_stage(run: Run, corpus: Corpus, table: pa.Table, directory: Path) -> None:
    """Applies eq. 5 and the caps to a profile; writes table.parquet and audit.json."""
    domains = run.settings.domains
    chosen = select_by_domain(run, table)
    kinds = {turn.id: kind(turn.expert) for turn in corpus.turns["train"]}
    caps = {name: own.caps for name, own in domains.items()}
    chosen = cap(chosen, [kinds[name] for name in chosen["candidate_id"].to_pylist()], caps)
    pivots = {name: len(selected(of_domain(chosen, name))) for name in domains}
    if not any(count for name, count in pivots.items() if domains[name].weight):
        raise UserError(
            f"no domain with a weight has a pivot left ({pivots}); raise caps.message_share, or "
            "the weight of one that has some"
        )
    for name, count in pivots.items():
        if not count:
            logging.warning("%s has no pivot; training goes on without it", name)
    write_table(directory / "table.parquet", chosen)
    criteria = {name: dataclasses.asdict(own.selection) for name, own in domains.items()}
    write_json(directory / "audit.json", audit(chosen) | {"settings": criteria})


def select_by_domain(run: Run, table: pa.Table, *, allow_empty: bool = False) -> pa.Table:
    """Eq. 5 with the settings of each domain; UserError where no domain has a pivot.

    The rows come domain by domain.
    """
    domains = run.settings.domains
    rows = {name: of_domain(table, name) for name in domains}
    parts = [select(rows[name], own.selection, allow_empty=True) for name, own in domains.items()]
    if not allow_empty and not any(selected(part) for part in parts):
        reasons = (
            f"{name}: {nothing_selected(part, own.selection)}"
            for part, (name, own) in zip(parts, domains.items(), strict=True)
        )
        raise UserError("; ".join(reasons))
    return pa.concat_tables(parts)


def of_domain(table: pa.Table, domain: str) -> pa.Table:
    return table.filter(pc.equal(table["domain"], domain))


def selected(table: pa.Table) -> set[str]:
    return set(table.filter(table["selected"])["candidate_id"].to_pylist())
