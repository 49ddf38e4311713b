"""PivotRL's step, alone and sampled one ahead, against the same steps written out one by one."""

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
import pytest

from pivotrl_jax.models import Params
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.pivots import (
    Grading,
    Judging,
    OnlineSettings,
    Rollouts,
    Turn,
    joined,
    judge,
    plan,
    rollouts,
    start,
    verdict_thread,
)
from pivotrl_jax.sampling import EngineSettings, SamplingSettings
from pivotrl_jax.text import ParsedAction
from pivotrl_jax.training import (
    Batches,
    Checkpointer,
    MetricWriter,
    OneAhead,
    OnlineBatches,
    OptimizerSettings,
    PivotStep,
    Stopped,
    TrainSettings,
    TrainState,
    Watch,
    in_micro_batches,
    index_batches,
    make_optimizer,
    new_state,
    pivotrl,
    policy_batch,
    policy_update,
    run_steps,
    state_shardings,
)
from pivotrl_jax.trajectories import Action
from pivotrl_jax.verifiers import Verdict
from pivotrl_jax.verifiers.recipe import Recipe

STEPS, MULTIPLE = 4, 256
ENGINE = EngineSettings(rows=2, slots=16, chunk=4, row_multiple=64)
SETTINGS = TrainSettings(
    steps=STEPS, rows=2, pivots_per_row=2, samples=4, row_multiple=MULTIPLE,
    sampling=SamplingSettings(max_tokens=6),
)  # fmt: skip
KEY = 11
TIMES = {
    "seconds", "seconds_sampling", "seconds_update", "seconds_verdicts_waited", "tokens_per_second",
}  # fmt: skip


class Bytes:
    """A byte is a token; those from 200 on end an action."""

    ends = tuple(range(200, 256))

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("latin-1")


class Plain:
    name = "plain"

    def parse(self, text: str) -> ParsedAction:
        return ParsedAction(Action(text), () if text else ("empty",))


@dataclasses.dataclass
class Sum:
    """How large the bytes of an action are on average; `before` is told whose it is."""

    before: Callable[[Action], Any] = lambda expert: None
    name = "sum"
    criteria = ("sum",)

    def __call__(self, expert: Action, sampled: ParsedAction, context: Any = None) -> Verdict:
        self.before(expert)
        text = sampled.action.text.encode("latin-1")
        return Verdict({"sum": float(np.mean(list(text) or [0])) / 256}, "")


def judging(verifier: Sum) -> Judging:
    recipe = Recipe("sum", graded="sum")
    return Judging(Bytes(), {"swe": Grading(Plain(), verifier, recipe, "fail")})


@pytest.fixture(scope="module")
def turns(rows) -> list[Turn]:
    return [dataclasses.replace(turn, expert=Action(turn.id)) for _, part in rows for turn in part]


@pytest.fixture(scope="module")
def mesh(place):
    return place(1, 1, 1)[0]


@pytest.fixture(scope="module")
def training(tiny_cfg, mesh, place):
    """The update, and what makes a new state."""
    optimizer = make_optimizer(OptimizerSettings(learning_rate=0.02), STEPS)
    layout = state_shardings(optimizer, tiny_cfg, mesh)
    update = policy_update(
        tiny_cfg, optimizer, layout, PolicySettings(), SETTINGS.advantage,
        temperature=1.0, remat="full",
    )  # fmt: skip
    return in_micro_batches(update, mesh), lambda: new_state(place(1, 1, 1)[1], optimizer, layout)


@pytest.fixture
def thread():
    with verdict_thread() as thread:
        yield thread


@pytest.fixture
def make_step(tiny_cfg, turns, trunks, training, mesh, thread):
    """The step on single turns as rows, with a verifier and other fields."""
    rows = plan(turns, 1)

    def make_step(verifier: Sum | None = None, **fields: Any) -> PivotStep:
        given = {
            "cfg": tiny_cfg, "rows_of": lambda indices: [rows[i] for i in indices],
            "trunks": trunks, "reference": None, "update": training[0],
            "judging": judging(verifier or Sum()), "settings": SETTINGS, "engine": ENGINE,
            "learning_rates": [0.02] * STEPS, "key": jax.random.key(KEY), "mesh": mesh,
            "thread": thread,
        }  # fmt: skip
        return PivotStep(**given | fields)

    return make_step


@pytest.fixture
def batches(turns) -> Batches:
    return index_batches([1] * len(turns), SETTINGS.rows, seed=3)


class Silent:
    def advance(self, n: int = 1) -> None: ...
    def note(self, text: str) -> None: ...


@pytest.fixture
def run(mesh, tmp_path):
    """Runs steps to `until`, from the checkpoint in `name` where there is one."""

    def run(
        step: Any,
        state: TrainState,
        data: Batches,
        until: int = STEPS,
        name: str = "a",
        watch: Watch | None = None,
    ) -> tuple[TrainState, list[Mapping[str, float]]]:
        checkpointer = Checkpointer(tmp_path / name)
        restored, seen = checkpointer.latest(), []

        def ended(metrics: Mapping[str, float]) -> bool:
            seen.append({name: x for name, x in metrics.items() if name not in TIMES})
            return (restored or 0) + len(seen) == until

        if restored is not None:
            state, position = checkpointer.restore(state)
            data.set_state(position)
        with jax.set_mesh(mesh), MetricWriter(tmp_path / name, restored) as writer:
            state = run_steps(
                step, state, steps=STEPS, data=data, checkpointer=checkpointer, save_every=99,
                writer=writer, bar=Silent(), note=lambda metrics: "", until=ended, watch=watch,
            )  # fmt: skip
        checkpointer.close()
        return state, seen

    return run


@pytest.fixture
def written_out(tiny_cfg, turns, trunks, training, mesh, batches):
    """The parameters after STEPS steps, the samples of each and their rewards; step by step.

    Step n samples from the policy before it, or from that before step n - `lag`.
    """

    def written_out(lag: int):
        update, fresh = training
        state, rows, judges = fresh(), plan(turns, 1), judging(Sum())
        policies, samples, rewards = [], [], []
        with jax.set_mesh(mesh):
            for number in range(STEPS):
                policies.append(jax.device_put(jax.device_get(state.params)))
                chosen = [rows[i] for i in next(batches)]
                own = dataclasses.replace(ENGINE, most=8)
                found = rollouts(
                    policies[max(0, number - lag)], tiny_cfg, chosen, trunks, 4,
                    jax.random.fold_in(jax.random.key(KEY), number), Bytes(), SETTINGS.sampling,
                    own, mesh,
                )  # fmt: skip
                part_of = {part.turns[0].id: part for part in found}
                rollout = joined([part_of[part[0].id] for _, part in chosen])
                judged = judge(rollout, judges)
                batch = policy_batch(
                    chosen, trunks, rollout, judged.rewards_PK, judged.valid_PK,
                    judged.malformed_PK, pivots=2, multiple=MULTIPLE,
                )  # fmt: skip
                state, _ = update(state, None, batch)
                samples.append(rollout)
                rewards.append(judged.rewards_PK)
        return jax.device_get(state.params), samples, rewards

    return written_out


def same(ours: Params, theirs: Params) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), theirs)


def seen_by(observed: list, samples: Sequence[Rollouts], rewards: Sequence[np.ndarray]) -> None:
    """What `observe` was told is what these steps sampled and earned."""
    for (turns, rewards_PK, valid_PK), rollout, expected in zip(
        observed, samples, rewards, strict=True
    ):
        assert turns == rollout.turns
        assert valid_PK.all()
        np.testing.assert_array_equal(rewards_PK, expected)


@pytest.mark.parametrize("lag", [0, 1], ids=["in turn", "one ahead"])
def test_steps_are_those_of_a_plain_loop(lag, make_step, written_out, turns, training, run):
    observed = []
    step = make_step(observe=lambda *told: observed.append(told) or {})
    data = index_batches([1] * len(turns), SETTINGS.rows, seed=3)
    if lag:
        step = data = OneAhead(step, data, last=STEPS - 1)
    state, metrics = run(step, training[1](), data)
    expected, samples, rewards = written_out(lag)
    same(state.params, expected)
    seen_by(observed, samples, rewards)
    assert all(found["grad_norm"] > 0 for found in metrics)
    # One update apart, the policy that learns is not the one that sampled.
    gaps = [found["logp_gap"] for found in metrics]
    assert gaps[0] < 1e-4
    assert min(gaps[1:]) > 1e-3 if lag else max(gaps) < 1e-4


def online(turns: Sequence[Turn]) -> OnlineBatches:
    state = start(np.full(len(turns), 4), np.full(len(turns), 0.5))
    settings = OnlineSettings(half_life=2.0)
    return OnlineBatches(turns, state, settings, {"swe": 1.0}, batch=SETTINGS.rows, seed=7)


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_ends_with_the_same_bits(stop, make_step, turns, training, run):
    def fresh() -> OneAhead:
        data = online(turns)
        return OneAhead(make_step(observe=data.observe), data, last=STEPS - 1)

    whole, broken, resumed = fresh(), fresh(), fresh()
    state, metrics = run(whole, training[1](), whole)
    before = run(broken, training[1](), broken, until=stop, name="b")[1]
    again, after = run(resumed, training[1](), resumed, name="b")
    same(again, jax.device_get(state))
    assert [*before, *after] == metrics
    assert resumed.get_state() == whole.get_state()


class Signalled(Watch):
    """SIGTERM comes right before call number `at` of those with this name."""

    def __init__(self, name: str, at: int) -> None:
        super().__init__()
        self._name, self._left = name, at

    def __call__(self, name: str) -> AbstractContextManager[None]:
        self._left -= name == self._name
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().__call__(name)


@pytest.mark.parametrize(
    ("overlap", "name", "at"), [(False, "decode", 4), (True, "update", 2)], ids=str
)
def test_a_step_that_is_abandoned_changes_no_bit(
    overlap, name, at, make_step, turns, training, run
):
    def fresh(watch: Watch) -> tuple[Any, Batches]:
        data = online(turns)
        step = make_step(observe=data.observe, watch=watch)
        return (ahead := OneAhead(step, data, last=STEPS - 1), ahead) if overlap else (step, data)

    def attempt(where: str, watch: Watch):
        step, data = fresh(watch)
        state, metrics = run(step, training[1](), data, name=where, watch=watch)
        return jax.device_get(state), metrics, data.get_state()

    state, metrics, position = attempt("a", Watch())
    with pytest.raises(Stopped, match=rf"^stopped by SIGTERM at step 1 of {STEPS}; saved$"):
        attempt("b", Signalled(name, at))
    again, after, found = attempt("b", Watch())
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert after == metrics[1:]
    assert found == position


def test_nothing_is_sampled_for_after_the_last_step(make_step, batches, training, run):
    ahead = OneAhead(make_step(), batches, last=1)
    position = batches.get_state()
    run(ahead, training[1](), ahead, until=2)
    assert "samples" not in ahead.get_state()
    batches.set_state(position)
    for _ in range(2):
        next(batches)
    assert ahead.get_state() == {"data": batches.get_state()}


def test_samples_are_text_to_the_bit(make_step, batches, training, mesh):
    """NaN, denormal numbers and lengths included."""
    step = make_step()
    ahead, other = (OneAhead(step, batches, last=9) for _ in range(2))
    with jax.set_mesh(mesh):
        ahead(training[1](), next(ahead), 0)
    drawn = ahead._next
    odd = drawn.rollout.samples[0][0]
    odd.behaviour[0], odd.plain[0] = np.nan, np.float32(1e-42)
    other.set_state(json.loads(json.dumps(ahead.get_state())))
    np.testing.assert_array_equal(next(other), drawn.indices)
    found = other._next.rollout
    assert found.turns == drawn.rollout.turns
    for ours, theirs in zip(found.samples, drawn.rollout.samples, strict=True):
        assert len(ours) == len(theirs) == 4
        for one, expected in zip(ours, theirs, strict=True):
            for name in ("tokens", "behaviour", "plain"):
                mine, wanted = getattr(one, name), getattr(expected, name)
                assert (mine.dtype, mine.tobytes()) == (wanted.dtype, wanted.tobytes())
            assert (one.truncated, one.drafted) == (expected.truncated, expected.drafted)
    assert len({len(one.tokens) for group in found.samples for one in group}) > 1


def test_verdicts_of_the_next_step_are_made_while_this_one_updates(
    make_step, batches, turns, training, mesh
):
    """Verdicts on pivots of the second step wait until the first update has been given out."""
    position, first = batches.get_state(), set(next(batches).tolist())
    batches.set_state(position)
    updating, waited = threading.Event(), []

    def before(expert: Action) -> None:
        if [turn.id for _, (turn,) in plan(turns, 1)].index(expert.text) not in first:
            assert updating.wait(60)
            waited.append(expert.text)

    def update(*arguments: Any) -> Any:
        assert updating.is_set() or not waited
        updating.set()
        return training[0](*arguments)

    ahead = OneAhead(make_step(Sum(before), update=update), batches, last=STEPS - 1)
    with jax.set_mesh(mesh):
        state, _ = ahead(training[1](), next(ahead), 0)
        ahead(state, next(ahead), 1)
    assert len(waited) >= 2 * SETTINGS.samples


def test_a_row_is_verified_while_the_next_is_sampled(
    make_step, batches, training, mesh, monkeypatch
):
    asked = threading.Event()

    def slowly(*arguments: Any, **named: Any) -> Iterator[Rollouts]:
        first, *others = rollouts(*arguments, **named)
        yield first
        assert asked.wait(60)
        yield from others

    monkeypatch.setattr(pivotrl, "rollouts", slowly)
    step = make_step(Sum(lambda expert: asked.set()))
    with jax.set_mesh(mesh):
        drawn = step.draw(training[1]().params, next(batches), 0)
    assert len(drawn.verdicts) == SETTINGS.rows


@pytest.mark.parametrize("ahead", [False, True], ids=["in turn", "one ahead"])
def test_what_a_verifier_raises_ends_the_step(ahead, make_step, batches, training, mesh):
    def broken(expert: Action) -> None:
        raise RuntimeError(f"no verdict on {expert.text}")

    step = make_step(Sum(broken))
    step = OneAhead(step, batches, last=STEPS - 1) if ahead else step
    with jax.set_mesh(mesh), pytest.raises(RuntimeError, match="no verdict on "):
        step(training[1](), next(batches), 0)
