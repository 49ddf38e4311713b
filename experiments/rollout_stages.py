"""Stages that sample from the policy: profile, selection, evaluation. Each is resumable."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.candidates import Corpus
from experiments.context import EVALUATE, Run, key_of, write_json
from experiments.progress import Progress, StageRecord
from pivotrl_jax.errors import UserError
from pivotrl_jax.evaluation import heldout_difference, heldout_reward, perplexity, read_texts
from pivotrl_jax.models import Params
from pivotrl_jax.objectives import rewards
from pivotrl_jax.pivots import (
    ProfileStore,
    Rollouts,
    Turn,
    audit,
    candidate_table,
    cap,
    judge,
    kind,
    plan,
    read_samples,
    rollouts,
    sample_records,
    select,
)

Truncated = Literal["exclude", "fail"]


def profile_stage(
    run: Run,
    corpus: Corpus,
    params: Params,
    name: str,
    turns: Sequence[Turn],
    key: jax.Array,
    samples: int,
    truncated: Truncated,
) -> pa.Table:
    """Samples and judges K actions per turn into the store `name`; returns its candidate table.

    Resumes where a killed run stopped. The store is pinned to the policy, the candidates and the
    settings that its samples depend on.
    """
    manifest = _manifest(run, params, turns) | {"samples": samples, "truncated": truncated}
    store = ProfileStore(run.workdir / name, manifest)
    done = store.done()
    with Progress(name, len(turns), "candidates", initial=len(done)) as bar:
        batches = rollouts(
            params,
            run.cfg,
            plan(turns),
            corpus.trunks,
            samples,
            key,
            run.tokenizer,
            run.settings.profile.sampling,
            run.settings.engine,
            run.mesh,
            done,
        )
        for batch in batches:
            store.append(_judged_rows(run, batch, truncated))
            bar.advance(len(batch.turns))
    return candidate_table(store.read(), corpus.table)


def _judged_rows(run: Run, batch: Rollouts, truncated: Truncated) -> Iterator[dict[str, Any]]:
    judged = judge(batch, run.tokenizer, run.fmt, run.verifier, truncated)
    criteria, valid = jax.device_put((judged.criteria_PKC, judged.valid_PK))
    rewards_PK = jax.device_get(rewards(criteria, valid, run.recipe))
    return sample_records(batch, judged, rewards_PK, run.verifier.criteria)


def _manifest(run: Run, params: Params, turns: Sequence[Turn]) -> dict[str, Any]:
    settings = run.settings
    candidates = hashlib.sha256("\n".join(f"{t.id} {t.start} {t.end}" for t in turns).encode())
    return {
        "model": run.pretrained.fingerprint,
        "policy": fingerprint(params),
        "tokenizer": run.tokenizer.fingerprint,
        "template": run.template.fingerprint,
        "candidates": candidates.hexdigest(),
        "sampling": dataclasses.asdict(settings.profile.sampling),
        "reward": dataclasses.asdict(settings.reward),
        "seed": settings.seed,
    }


@jax.jit
def _sums(params: Params) -> list[jax.Array]:
    return [jnp.stack([jnp.sum(x), jnp.sum(jnp.abs(x))]) for x in jax.tree.leaves(params)]


def fingerprint(params: Params) -> str:
    """Tells one checkpoint of a policy from another: a hash over sums of every leaf."""
    sums = np.concatenate([np.asarray(x, np.float32) for x in jax.device_get(_sums(params))])
    return hashlib.sha256(sums.tobytes()).hexdigest()


def count_tokens(run: Run, record: StageRecord, *names: str) -> None:
    """Notes how many tokens the samples of these stores have, and how many were drafted."""
    for name in names:
        samples = read_samples(run.workdir / name)
        record.tokens += sum(samples["length"].to_pylist())
        record.drafted += sum(samples["drafted"].to_pylist())


def select_stage(run: Run, corpus: Corpus, table: pa.Table, directory: Path) -> None:
    """Applies eq. 5 and the caps to a profile; writes table.parquet and audit.json."""
    directory.mkdir(parents=True, exist_ok=True)
    chosen = select(table, run.settings.selection)
    kinds = {turn.id: kind(turn.expert) for turn in corpus.turns["train"]}
    domains = dict.fromkeys(chosen["domain"].to_pylist(), run.settings.caps)
    chosen = cap(chosen, [kinds[name] for name in chosen["candidate_id"].to_pylist()], domains)
    if not selected(chosen):
        raise UserError("config.caps leave no pivot; raise caps.message_share")
    pq.write_table(chosen, directory / "table.parquet")
    write_json(directory / "audit.json", audit(chosen, run.settings.selection))


def selected(table: pa.Table) -> set[str]:
    return set(table.filter(table["selected"])["candidate_id"].to_pylist())


def evaluate_stage(run: Run, corpus: Corpus, params: Params, policy: str) -> pa.Table:
    """Samples the held-out candidates and scores the out-of-domain texts under one policy."""
    settings = run.settings.evaluation
    table = profile_stage(
        run,
        corpus,
        params,
        f"evaluate/{policy}",
        corpus.turns["heldout"],
        key_of(run, EVALUATE),
        settings.samples,
        settings.truncated,
    )
    path = run.workdir / "evaluate" / f"{policy}_ood.json"
    if not path.exists():
        texts = read_texts(Path(settings.ood_path), settings.ood_texts)
        score = partial(
            perplexity, params, run.cfg, tokenizer=run.tokenizer, mesh=run.mesh,
            max_tokens=settings.ood_tokens,
        )  # fmt: skip
        with Progress(f"evaluate/{policy} retention", len(texts), "sets") as bar:
            scores = {}
            for name, own in texts.items():
                scores[name] = score(own)
                bar.advance()
        write_json(path, scores)
    return table


def summarise(run: Run, tables: Mapping[str, pa.Table], heldout_profile: pa.Table) -> None:
    """Writes evaluate/<policy>.json: held-out reward, on all candidates and on pivots only.

    Held-out pivots are chosen by a profile of their own, not by the samples that are scored here:
    choosing and scoring with the same draws would flatter or punish whoever drew them.
    """
    chosen = select(heldout_profile, run.settings.selection, allow_empty=True)
    pivots = selected(chosen)
    directory, seed = run.workdir / "evaluate", run.settings.seed
    for policy, table in tables.items():
        store = read_samples(directory / policy)
        others = {name: other for name, other in tables.items() if name != policy}
        against = {
            name: {"heldout": heldout_difference(table, other, seed),
                   "heldout_pivots": heldout_difference(table, other, seed, pivots)}
            for name, other in others.items()
        }  # fmt: skip
        scores = {
            "policy": policy,
            "heldout": heldout_reward(table, seed),
            "heldout_pivots": heldout_reward(table, seed, pivots),
            "against": against,
            "perplexity": json.loads((directory / f"{policy}_ood.json").read_text()),
            "malformed_share": float(np.mean(store["malformed"].to_numpy())),
            "truncated_share": float(np.mean(store["truncated"].to_numpy())),
            "error_share": float(np.mean(store["error"].is_valid().to_numpy())),
        }
        write_json(directory / f"{policy}.json", scores)
