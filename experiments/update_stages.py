"""Stages that update the policy: warm start, PivotRL, export."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.candidates import Corpus
from experiments.context import PROFILE, TRAIN, Run, key_of, write_json
from experiments.progress import Progress, StageRecord
from experiments.report_data import json_lines
from experiments.rollout_stages import profile_stage, select_stage
from pivotrl_jax.models import Params, huggingface
from pivotrl_jax.parallel import row_shards
from pivotrl_jax.pivots import Profile, Turn, due, plan, profiles
from pivotrl_jax.training import (
    Checkpointer,
    MetricWriter,
    Step,
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

    segment = Segment(0, step, [max(end for _, end in spans) for _, spans in examples])
    state = _train(
        run,
        "sft",
        new_state(params, optimizer, layout),
        lambda state, history: segment,
        steps=steps,
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
    """Single-turn GRPO on the pivots, from `params`, which also is the frozen policy pi_0.

    Where `reprofile` says so, the policy of that step is profiled again, and the pivots of that
    profile follow.
    """
    settings = run.settings.train
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    layout = state_shardings(optimizer, run.cfg, run.mesh)
    update = in_micro_batches(
        policy_update(
            run.cfg,
            optimizer,
            layout,
            run.settings.objective,
            settings.advantage,
            temperature=settings.sampling.temperature,
            remat=settings.remat,
        ),
        run.mesh,
    )
    reference = jax.tree.map(jnp.copy, params) if run.settings.objective.kl_coef else None
    rates = learning_rates(settings.optimizer, settings.steps)

    def segment(state: TrainState, history: Sequence[Mapping]) -> Segment:
        profile = profiles(history, run.settings.reprofile)[-1]
        chosen = pivots if profile.number == 0 else profile_again(run, corpus, state, profile)
        turns = [turn for turn in corpus.turns["train"] if turn.id in chosen]
        rows = plan(turns, settings.pivots_per_row)
        step = pivot_step(
            run.cfg,
            rows,
            corpus.trunks,
            reference,
            update,
            run.judging,
            settings,
            run.settings.engine,
            rates,
            key_of(run, TRAIN),
            run.mesh,
        )
        return Segment(profile.step, step, [max(turn.end for turn in part) for _, part in rows])

    state = _train(
        run,
        "train",
        new_state(params, optimizer, layout),
        segment,
        steps=settings.steps,
        rows=settings.rows,
        save_every=settings.save_every,
        note=lambda m: f"reward {m['reward_mean']:.3f}, mixed {m['mixed_share']:.0%}",
        ended=lambda since: due(since, run.settings.reprofile) is not None,
    )
    return state.params


def profile_again(run: Run, corpus: Corpus, state: TrainState, profile: Profile) -> set[str]:
    """The pivots of the policy in training, from a profile of its own that resumes like the first.

    Its samples, table and audit stand beside the earlier ones, under `profile.directory`.
    """
    settings = run.settings
    table = profile_stage(
        run,
        corpus,
        state.params,
        f"{profile.directory}/train",
        corpus.turns["train"],
        jax.random.fold_in(key_of(run, PROFILE), profile.number),
        settings.profile.samples,
        settings.reward.truncated,
    )
    directory = run.workdir / profile.directory
    write_json(directory / "reason.json", dataclasses.asdict(profile))
    return select_stage(run, table, directory / "select")


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps from number `first` on that choose among the same items, of `sizes` tokens each."""

    first: int
    step: Step
    sizes: Sequence[int]


def _train(
    run: Run,
    name: str,
    state: TrainState,
    segment: Callable[[TrainState, Sequence[Mapping]], Segment],
    *,
    steps: int,
    rows: int,
    save_every: int,
    note: Callable[[Mapping[str, float]], str],
    ended: Callable[[Sequence[Mapping]], bool] = lambda since: False,
) -> TrainState:
    """Restores or starts a training state and runs it to `steps`, segment by segment.

    `segment` gives the one that a state with these metrics of all its steps is in; `ended` says of
    the metrics of a segment's steps whether it is over. A killed run finds the same segments.
    """
    directory = run.workdir / name
    checkpointer = Checkpointer(directory / "checkpoints")
    position = index_batches([1], 1, run.settings.seed)
    restored = checkpointer.latest()
    if restored is not None:
        state = checkpointer.restore(state, position)
    if restored != steps:
        with (
            MetricWriter(directory, restored, run.settings.wandb_project) as writer,
            Progress(name, steps, "steps", initial=restored or 0) as bar,
        ):
            history = json_lines(directory / "metrics.jsonl")
            while len(history) < steps:
                now = segment(state, history)
                data = index_batches(now.sizes, rows, run.settings.seed)
                if len(history) > now.first:
                    data.set_state(position.get_state())

                def until(metrics: Mapping[str, float], first: int = now.first) -> bool:
                    history.append(dict(metrics))
                    return ended(history[first:])

                state = run_steps(
                    now.step,
                    state,
                    steps=steps,
                    data=data,
                    checkpointer=checkpointer,
                    save_every=save_every,
                    writer=writer,
                    bar=bar,
                    note=note,
                    until=until,
                )
    checkpointer.close()
    return state


def count_scored(run: Run, record: StageRecord, name: str) -> None:
    """Notes how many action tokens the updates of `name` saw, and how many were drafted."""
    for metrics in json_lines(run.workdir / name / "metrics.jsonl"):
        record.tokens += int(metrics["action_tokens"])
        record.drafted += int(metrics.get("drafted_tokens", 0))


def export_stage(run: Run, params: Params) -> None:
    """The trained policy as a Hugging Face directory, which any other engine loads."""
    model = run.pretrained
    huggingface.save(
        run.workdir / "policy", params, run.cfg, model.tokenizer_files, model.tokenizer.eot
    )
