"""What updates of the policy share: the warm start, the loop over segments, export."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.context import Run
from experiments.progress import Progress, StageRecord, say
from experiments.reports.curve import playing
from experiments.reports.data import json_lines
from experiments.stages.candidates import Corpus
from pivotrl_jax.models import Params, huggingface, peft
from pivotrl_jax.models.lora import Adapters, detach, policy_of
from pivotrl_jax.parallel import fetch, from_first, row_shards
from pivotrl_jax.pivots import Turn
from pivotrl_jax.training import (
    Batches,
    Checkpointer,
    Goodput,
    MetricWriter,
    Step,
    Tracer,
    TrainState,
    in_micro_batches,
    index_batches,
    learning_rates,
    make_optimizer,
    new_state,
    run_steps,
    state_shardings,
    supervised_batch,
    supervised_update,
)


def sft_stage(run: Run, corpus: Corpus, params: Params) -> Params:
    """Fine-tunes on the expert actions of the training candidates; returns the warm policy."""
    settings = run.training(run.settings.sft)
    examples = list(_spans_by_trunk(corpus, corpus.turns["train"]).values())
    steps = settings.epochs * max(1, len(examples) // min(settings.rows, len(examples)))
    optimizer = make_optimizer(settings.optimizer, steps)
    base, own = detach(params)
    layout = state_shardings(optimizer, run.cfg, run.mesh, run.settings.lora)
    update = in_micro_batches(
        supervised_update(run.cfg, optimizer, layout, settings.remat), run.mesh, base=base
    )
    rates = learning_rates(settings.optimizer, steps)

    def step(state: TrainState, indices: np.ndarray, number: int) -> tuple[TrainState, Mapping]:
        batch = supervised_batch(
            [examples[i] for i in indices],
            multiple=settings.row_multiple,
            shards=row_shards(run.mesh),
        )
        with run.watch("update"):
            state, metrics = update(state, batch)
            scalars = {name: float(x) for name, x in fetch(metrics).items()}
        return state, scalars | {"lr": rates[number]}

    sizes = [max(end for _, end in spans) for _, spans in examples]
    segment = Segment(0, step, index_batches(sizes, settings.rows, run.settings.seed))
    state = run_segments(
        run,
        "sft",
        new_state(own, optimizer, layout),
        lambda state, history: segment,
        steps=steps,
        save_every=settings.save_every,
        note=lambda m: f"loss {m['loss']:.3f}",
        base=base,
    )
    return policy_of(state.params, base)


def _spans_by_trunk(corpus: Corpus, turns: Sequence[Turn]) -> dict[int, tuple]:
    """Trunk number to (tokens, spans of its candidates)."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for turn in turns:
        spans.setdefault(turn.trunk, []).append((turn.start, turn.end))
    return {trunk: (corpus.trunks[trunk], own) for trunk, own in spans.items()}


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps from number `first` on, with the batches that they take."""

    first: int
    step: Step
    data: Batches


def run_segments(
    run: Run,
    name: str,
    state: TrainState,
    segment: Callable[[TrainState, Sequence[Mapping]], Segment],
    *,
    steps: int,
    save_every: int,
    note: Callable[[Mapping[str, float]], str],
    base: Params | None,
    ended: Callable[[Sequence[Mapping]], bool] = lambda since: False,
) -> TrainState:
    """Restores or starts a training state and runs it to `steps`, segment by segment.

    `segment` gives the one that a state with these metrics of all its steps is in; `ended` says of
    the metrics of a segment's steps whether it is over. A killed run finds the same segments.
    `base` is what a state of adapters belongs to.
    """
    directory = run.workdir / name
    checkpointer = Checkpointer(directory / "checkpoints")
    position: dict[str, Any] = {}
    restored = checkpointer.latest()
    if restored is not None:
        state, position = checkpointer.restore(state)
    if restored != steps:
        with (
            MetricWriter(directory, restored, run.settings.wandb_project) as writer,
            Tracer(name, run.workdir / "trace" / name, run.trace) as tracer,
            Progress(name, steps, "steps", initial=restored or 0) as bar,
        ):
            history = from_first(partial(json_lines, directory / "metrics.jsonl"))
            goodput = Goodput(directory, history, run.watch)
            while len(history) < steps:
                now = segment(state, history)
                if len(history) > now.first:
                    now.data.set_state(position)

                def until(metrics: Mapping[str, float], first: int = now.first) -> bool:
                    history.append(dict(metrics))
                    return ended(history[first:])

                step = tracer.around(goodput.around(now.step))
                state = run_steps(
                    playing(run, name, step, base),
                    state,
                    steps=steps,
                    data=now.data,
                    checkpointer=checkpointer,
                    save_every=save_every,
                    writer=writer,
                    bar=bar,
                    note=note,
                    until=until,
                    watch=run.watch,
                )
        say(f"{name}: {goodput.summary()}")
    checkpointer.close()
    return state


def count_scored(run: Run, record: StageRecord, name: str) -> None:
    """Notes the samples that `name` drew, their tokens, and how many of those were drafted; of a
    stage that samples nothing, the expert's tokens that it trained on."""
    for metrics in from_first(partial(json_lines, run.workdir / name / "metrics.jsonl")):
        record.tokens += int(metrics.get("sampled_tokens") or metrics["action_tokens"])
        record.drafted += int(metrics.get("drafted_tokens", 0))
        record.samples += int(metrics.get("rollout_turns", 0))


def export_stage(run: Run, params: Params) -> None:
    """The trained policy as a Hugging Face directory, which any other engine loads, and its
    adapters, if it has any, also as a PEFT directory."""
    model = run.pretrained
    huggingface.save(
        run.workdir / "policy", params, run.cfg, model.tokenizer_files, model.tokenizer.eot
    )
    _, own = detach(params)
    if isinstance(own, Adapters):
        peft.save(run.workdir / "adapter", own, run.cfg, run.settings.lora, run.settings.model.name)
