"""Warm start, profile, selection, training and evaluation, each resumable."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.candidates import Corpus
from experiments.context import Run, write_json
from experiments.progress import Progress
from pivotrl_jax.evaluation import heldout_difference, heldout_reward, perplexity, read_texts
from pivotrl_jax.models import Params, huggingface
from pivotrl_jax.objectives import rewards
from pivotrl_jax.parallel import rows as row_sharding
from pivotrl_jax.pivots import (
    ProfileStore,
    Rollouts,
    Turn,
    audit,
    candidate_table,
    judge,
    plan,
    read_samples,
    rollouts,
    sample_records,
    select,
)
from pivotrl_jax.training import (
    Checkpointer,
    MetricWriter,
    TrainState,
    index_batches,
    learning_rates,
    make_optimizer,
    new_state,
    pivot_step,
    policy_update,
    run_steps,
    state_shardings,
    supervised_batch,
    supervised_update,
)

Truncated = Literal["exclude", "fail"]

# Streams of the run's random key.
PROFILE, EVALUATE, TRAIN = 1, 2, 3


def key_of(run: Run, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(run.settings.seed), stream)


def sft_stage(run: Run, corpus: Corpus, params: Params) -> Params:
    """Fine-tunes on the expert actions of the training candidates; returns the warm policy."""
    settings = run.settings.sft
    examples = list(_spans_by_trunk(corpus, corpus.turns["train"]).values())
    steps = settings.epochs * max(1, len(examples) // min(settings.rows, len(examples)))
    optimizer = make_optimizer(settings.optimizer, steps)
    layout = state_shardings(optimizer, run.cfg, run.mesh)
    update = supervised_update(run.cfg, optimizer, layout, settings.remat)
    rates = learning_rates(settings.optimizer, steps)

    def step(state: TrainState, indices: np.ndarray, number: int) -> tuple[TrainState, Mapping]:
        batch = supervised_batch(
            [examples[i] for i in indices],
            micro_rows=settings.micro_rows,
            multiple=settings.row_multiple,
        )
        put = lambda x: jax.device_put(x, row_sharding(run.mesh, x.shape, axis=1))  # noqa: E731
        state, metrics = update(state, jax.tree.map(put, batch))
        scalars = {name: float(x) for name, x in jax.device_get(metrics).items()}
        return state, scalars | {"lr": rates[number]}

    state = _train(
        run,
        "sft",
        new_state(params, optimizer, layout),
        step,
        steps=steps,
        items=len(examples),
        rows=settings.rows,
        save_every=settings.save_every,
        note=lambda m: f"loss {m['loss']:.3f}",
    )
    return state.params


def _spans_by_trunk(corpus: Corpus, turns: Sequence[Turn]) -> dict[int, tuple]:
    """Trunk number to (tokens, spans of its candidates)."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for turn in turns:
        spans.setdefault(turn.trunk, []).append((turn.start, turn.end))
    return {trunk: (corpus.trunks[trunk], own) for trunk, own in spans.items()}


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
    todo = [turn for turn in turns if turn.id not in store.done()]
    with Progress(name, len(turns), "candidates", initial=len(turns) - len(todo)) as bar:
        batches = rollouts(
            params,
            run.cfg,
            plan(todo),
            corpus.trunks,
            samples,
            key,
            run.tokenizer,
            run.settings.profile.sampling,
            run.settings.engine,
            run.mesh,
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


def scored_tokens(run: Run, name: str) -> int:
    """Action tokens that the updates of `name` were computed on."""
    lines = (run.workdir / name / "metrics.jsonl").read_text().splitlines()
    return sum(int(json.loads(line)["action_tokens"]) for line in lines)


def sampled_tokens(run: Run, *names: str) -> int:
    return sum(sum(read_samples(run.workdir / name)["length"].to_pylist()) for name in names)


def select_stage(run: Run, table: pa.Table) -> set[str]:
    """Applies eq. 5 to the profile; writes select/table.parquet and audit.json."""
    directory = run.workdir / "select"
    directory.mkdir(parents=True, exist_ok=True)
    chosen = select(table, run.settings.selection)
    pq.write_table(chosen, directory / "table.parquet")
    write_json(directory / "audit.json", audit(chosen, run.settings.selection))
    return selected(chosen)


def selected(table: pa.Table) -> set[str]:
    return set(table.filter(table["selected"])["candidate_id"].to_pylist())


def train_stage(run: Run, corpus: Corpus, params: Params, pivots: set[str]) -> Params:
    """Single-turn GRPO on the pivots, from `params`, which also is the frozen policy pi_0."""
    settings = run.settings.train
    chosen = [turn for turn in corpus.turns["train"] if turn.id in pivots]
    rows = plan(chosen, settings.pivots_per_row)
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    layout = state_shardings(optimizer, run.cfg, run.mesh)
    update = policy_update(
        run.cfg,
        optimizer,
        layout,
        run.settings.objective,
        samples=settings.pivots_per_row * settings.samples,
        temperature=settings.sampling.temperature,
        remat=settings.remat,
    )
    reference = jax.tree.map(jnp.copy, params) if run.settings.objective.kl_coef else None
    step = pivot_step(
        run.cfg,
        rows,
        corpus.trunks,
        reference,
        update,
        run.judging,
        settings,
        run.settings.engine,
        learning_rates(settings.optimizer, settings.steps),
        key_of(run, TRAIN),
        run.mesh,
    )
    state = _train(
        run,
        "train",
        new_state(params, optimizer, layout),
        step,
        steps=settings.steps,
        items=len(rows),
        rows=settings.rows,
        save_every=settings.save_every,
        note=lambda m: f"reward {m['reward_mean']:.3f}, mixed {m['mixed_share']:.0%}",
    )
    return state.params


def _train(
    run: Run,
    name: str,
    state: TrainState,
    step: Callable,
    *,
    steps: int,
    items: int,
    rows: int,
    save_every: int,
    note: Callable[[Mapping[str, float]], str],
) -> TrainState:
    """Restores or starts a training state and runs it to `steps`."""
    directory = run.workdir / name
    checkpointer = Checkpointer(directory / "checkpoints")
    data = index_batches(items, rows, run.settings.seed)
    restored = checkpointer.latest()
    if restored is not None:
        state = checkpointer.restore(state, data)
    if restored != steps:
        with (
            MetricWriter(directory, restored, run.settings.wandb_project) as writer,
            Progress(name, steps, "steps", initial=restored or 0) as bar,
        ):
            state = run_steps(
                step,
                state,
                steps=steps,
                data=data,
                checkpointer=checkpointer,
                save_every=save_every,
                writer=writer,
                bar=bar,
                note=note,
            )
    checkpointer.close()
    return state


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


def export_stage(run: Run, params: Params) -> None:
    """The trained policy as a Hugging Face directory, which any other engine loads."""
    model = run.pretrained
    huggingface.save(
        run.workdir / "policy", params, run.cfg, model.tokenizer_files, model.tokenizer.eot
    )


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
