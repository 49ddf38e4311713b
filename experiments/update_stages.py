"""Stages that update the policy: warm start, PivotRL, export."""

import json
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.candidates import Corpus
from experiments.context import TRAIN, Run, key_of
from experiments.progress import Progress, StageRecord
from pivotrl_jax.models import Params, huggingface
from pivotrl_jax.parallel import row_shards
from pivotrl_jax.pivots import Turn, plan
from pivotrl_jax.training import (
    Checkpointer,
    MetricWriter,
    TrainState,
    in_micro_batches,
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


def sft_stage(run: Run, corpus: Corpus, params: Params) -> Params:
    """Fine-tunes on the expert actions of the training candidates; returns the warm policy."""
    settings = run.settings.sft
    examples = list(_spans_by_trunk(corpus, corpus.turns["train"]).values())
    steps = settings.epochs * max(1, len(examples) // min(settings.rows, len(examples)))
    optimizer = make_optimizer(settings.optimizer, steps)
    layout = state_shardings(optimizer, run.cfg, run.mesh)
    update = in_micro_batches(
        supervised_update(run.cfg, optimizer, layout, settings.remat), run.mesh
    )
    rates = learning_rates(settings.optimizer, steps)

    def step(state: TrainState, indices: np.ndarray, number: int) -> tuple[TrainState, Mapping]:
        batch = supervised_batch(
            [examples[i] for i in indices],
            multiple=settings.row_multiple,
            shards=row_shards(run.mesh),
        )
        state, metrics = update(state, batch)
        scalars = {name: float(x) for name, x in jax.device_get(metrics).items()}
        return state, scalars | {"lr": rates[number]}

    state = _train(
        run,
        "sft",
        new_state(params, optimizer, layout),
        step,
        steps=steps,
        sizes=[max(end for _, end in spans) for _, spans in examples],
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
        settings.advantage,
        temperature=settings.sampling.temperature,
        remat=settings.remat,
    )
    reference = jax.tree.map(jnp.copy, params) if run.settings.objective.kl_coef else None
    step = pivot_step(
        run.cfg,
        rows,
        corpus.trunks,
        reference,
        in_micro_batches(update, run.mesh),
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
        sizes=[max(turn.end for turn in part) for _, part in rows],
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
    sizes: Sequence[int],
    rows: int,
    save_every: int,
    note: Callable[[Mapping[str, float]], str],
) -> TrainState:
    """Restores or starts a training state and runs it to `steps`."""
    directory = run.workdir / name
    checkpointer = Checkpointer(directory / "checkpoints")
    data = index_batches(sizes, rows, run.settings.seed)
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


def count_scored(run: Run, record: StageRecord, name: str) -> None:
    """Notes how many action tokens the updates of `name` saw, and how many were drafted."""
    for line in (run.workdir / name / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        record.tokens += int(metrics["action_tokens"])
        record.drafted += int(metrics.get("drafted_tokens", 0))


def export_stage(run: Run, params: Params) -> None:
    """The trained policy as a Hugging Face directory, which any other engine loads."""
    model = run.pretrained
    huggingface.save(
        run.workdir / "policy", params, run.cfg, model.tokenizer_files, model.tokenizer.eot
    )
