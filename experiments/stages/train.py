"""PivotRL proper: which pivots a step takes, when to profile again, and the updates."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow.parquet as pq

from experiments.artifacts import write_json
from experiments.context import PROFILE, TRAIN, Run, key_of
from experiments.settings import Settings
from experiments.stages.candidates import Corpus
from experiments.stages.rollouts import profile_stage, select_stage
from experiments.stages.updates import Segment, run_segments
from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.models.lora import detach, policy_of
from pivotrl_jax.parallel import from_first
from pivotrl_jax.pivots import Profile, Row, due, plan, profiles, start, verdict_thread
from pivotrl_jax.training import (
    Batches,
    Observe,
    OneAhead,
    OnlineBatches,
    PivotStep,
    TrainState,
    in_micro_batches,
    index_batches,
    learning_rates,
    make_optimizer,
    mixed_batches,
    new_state,
    policy_update,
    state_shardings,
)


def train_stage(run: Run, corpus: Corpus, params: Params) -> Params:
    """Single-turn GRPO on the selected pivots, from `params`, which also is the frozen policy pi_0.

    Where `reprofile` says so, the policy of that step is profiled again, and the pivots of that
    profile follow.
    """
    settings = run.training(run.settings.train)
    optimizer = make_optimizer(settings.optimizer, settings.steps)
    base, own = detach(params)
    layout = state_shardings(optimizer, run.cfg, run.mesh, run.settings.lora)
    update = in_micro_batches(
        update_on_pivots(run.settings, run.cfg, optimizer, layout), run.mesh, base=base
    )
    reference = jax.tree.map(jnp.copy, own) if run.settings.objective.kl_coef else None
    rates = learning_rates(settings.optimizer, settings.steps)

    reprofile, threads = run.settings.reprofile, ExitStack()

    def segment(state: TrainState, history: Sequence[Mapping]) -> Segment:
        # What the last segment sampled ahead is dropped, or else two threads would ask a verifier.
        threads.close()
        profile = profiles(history, reprofile)[-1]
        # Once: later on, the policy is no longer the one that this profile is of.
        if profile.number > 0 and not from_first(_reason_file(run, profile).exists):
            profile_again(run, corpus, policy_of(state.params, base), profile)
        choice = choose_pivots(run, corpus, select_directory(run, profile), profile.number)
        step = PivotStep(
            cfg=run.cfg,
            rows_of=choice.rows_of,
            trunks=corpus.trunks,
            reference=reference,
            update=update,
            judging=run.update_judging(),
            settings=settings,
            engine=run.settings.engine,
            learning_rates=rates,
            key=key_of(run, TRAIN),
            mesh=run.mesh,
            thread=threads.enter_context(verdict_thread()),
            observe=choice.observe,
            watch=run.watch,
            base=base,
        )
        return _segment(run.settings, profile.step, step, choice.data)

    with threads:
        state = run_segments(
            run,
            "train",
            new_state(own, optimizer, layout),
            segment,
            steps=settings.steps,
            save_every=settings.save_every,
            note=lambda m: f"reward {m['reward_mean']:.3f}, mixed {m['mixed_share']:.0%}",
            base=base,
            ended=lambda since: due(since, reprofile) is not None,
        )
    return policy_of(state.params, base)


def _segment(settings: Settings, first: int, step: PivotStep, data: Batches) -> Segment:
    """The steps from number `first` on, until the next profile at the latest; with `overlap` each
    samples before the update of the one before it."""
    train = settings.train
    if not train.overlap:
        return Segment(first, step, data)
    end = min(train.steps, first + (settings.reprofile.every or train.steps))
    ahead = OneAhead(step, data, last=end - 1)
    return Segment(first, ahead, ahead)


def update_on_pivots(
    settings: Settings,
    cfg: ModelConfig,
    optimizer: optax.GradientTransformation,
    layout: TrainState,
) -> jax.stages.Wrapped:
    """`policy_update` as the settings have it."""
    return policy_update(
        cfg,
        optimizer,
        layout,
        settings.objective,
        settings.train.advantage,
        temperature=settings.train.sampling.temperature,
        remat=settings.train.remat,
        sft_coef=settings.train.sft_coef,
    )


def profile_again(run: Run, corpus: Corpus, params: Params, profile: Profile) -> None:
    """Profiles the policy in training, which resumes like the first profile, and selects pivots.

    Samples, table and audit stand beside the earlier ones, under `profile.directory`.
    """
    settings = run.settings
    table = profile_stage(
        run,
        corpus,
        params,
        f"{profile.directory}/train",
        corpus.turns["train"],
        jax.random.fold_in(key_of(run, PROFILE), profile.number),
        settings.profile.samples,
    )
    select_stage(run, corpus, table, select_directory(run, profile))
    write_json(_reason_file(run, profile), dataclasses.asdict(profile))


def _reason_file(run: Run, profile: Profile) -> Path:
    """Written last, so that it also says that the profile is whole."""
    return run.workdir / profile.directory / "reason.json"


def select_directory(run: Run, profile: Profile) -> Path:
    return run.workdir / ("select" if profile.number == 0 else f"{profile.directory}/select")


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which pivots each step takes: indices, what they mean, and who is told of the samples."""

    data: Batches
    rows_of: Callable[[np.ndarray], Sequence[Row]]
    observe: Observe = lambda turns, rewards_PK, valid_PK: {}


def choose_pivots(run: Run, corpus: Corpus, selection: Path, number: int) -> Choice:
    """The choice among the pivots of profile `number`, whose table lies in `selection`."""
    settings, seed = run.settings.train, run.settings.seed + number
    table = from_first(partial(pq.read_table, selection / "table.parquet"))
    kept = table.filter(table["selected"]).to_pydict()
    names = set(kept["candidate_id"])
    trained = {name for name, own in run.settings.domains.items() if own.weight}
    turns = [t for t in corpus.turns["train"] if t.id in names and t.domain in trained]
    weights = {name: run.settings.domains[name].weight for name in {t.domain for t in turns}}
    if settings.curriculum == "epochs":
        rows = plan(turns, settings.pivots_per_row)
        return Choice(_batches(rows, weights, settings.rows, seed), lambda i: [rows[n] for n in i])
    place = {name: at for at, name in enumerate(kept["candidate_id"])}
    order = [place[turn.id] for turn in turns]
    state = start(np.take(kept["n"], order), np.take(kept["mean"], order))
    batch = settings.rows * settings.pivots_per_row
    online = OnlineBatches(turns, state, run.settings.online, weights, batch, seed)

    def rows_of(indices: np.ndarray) -> list[Row]:
        return plan([turns[i] for i in indices], settings.pivots_per_row)

    return Choice(online, rows_of, online.observe)


def _batches(rows: Sequence[Row], weights: Mapping[str, float], batch: int, seed: int) -> Batches:
    if len(weights) == 1:
        return index_batches([max(turn.end for turn in part) for _, part in rows], batch, seed)
    return mixed_batches([part[0].domain for _, part in rows], weights, batch, seed)
