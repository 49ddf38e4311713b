"""End-to-end steps: losses and gradients of whole episodes, what they cost, and what is learnt."""

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from kernels.grpo import AdvantageSettings
from pivotrl_jax.environments import Move, Played, Task
from pivotrl_jax.models import ModelConfig, Params, logits
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.sampling import EngineSettings, Request, Sample, SamplingSettings, sample
from pivotrl_jax.training import (
    EndToEndSettings,
    OptimizerSettings,
    Play,
    PolicyBatch,
    episode_batch,
    episode_step,
    in_micro_batches,
    make_optimizer,
    new_state,
    policy_update,
    state_shardings,
)
from pivotrl_jax.training.end_to_end import outcomes
from pivotrl_jax.trees import chunks

# A game of two turns in bytes. A turn ends with one of ENDS; the answer is the action backwards
# between two marks. The game is done after two actions, but not if the second is empty. It is won
# when both have a token of GOOD.
ENDS, GOOD, MARK = tuple(range(200, 256)), range(100), 199
TURNS, CAP, SAMPLES, MULTIPLE = 2, 8, 12, 256
SAMPLING = SamplingSettings(max_tokens=CAP)
TASKS = [Task(str(i), "g", "train", {"opening": [100 + i] * (3 + i)}) for i in range(2)]


class Game:
    """One episode as it grows."""

    def __init__(self, task: Task, number: int) -> None:
        self.task, self.number = task, number
        self.tokens = [MARK, *task.facts["opening"], MARK]
        self.moves: list[Move] = []
        self.good: list[bool] = []
        self.ending = ""

    def request(self) -> Request:
        candidate = zlib.crc32(f"{self.task.id} {len(self.moves)}".encode())
        return Request(len(self.tokens), len(self.tokens), candidate, self.number)

    def act(self, drawn: Sample) -> None:
        start, action = len(self.tokens), drawn.tokens.tolist()
        self.tokens += action
        valid = len(action) > 1
        logps, problem = (drawn.behaviour, drawn.plain), drawn.truncated
        self.moves.append(Move(start, start + len(action), *logps, problem, valid, ""))
        self.good.append(not set(action).isdisjoint(GOOD))
        if drawn.truncated:
            self.ending = "truncated"
        elif len(self.moves) == TURNS:
            self.ending = "done" if valid else "turns"
        self.tokens += [MARK, *action[-2::-1], MARK]

    def played(self) -> Played:
        score = sum(self.good) / TURNS if self.ending != "done" else float(all(self.good))
        tokens = np.array(self.tokens, np.int32)
        return Played(self.task, self.number, tokens, tuple(self.moves), (), score, self.ending)


def player(cfg: ModelConfig, mesh: Mesh, samples: int) -> Play:
    engine = EngineSettings(rows=64, slots=64, chunk=CAP, row_multiple=64)

    def play(params: Params, tasks: Sequence[Task], key: jax.Array) -> list[Played]:
        games = [Game(task, k) for task in tasks for k in range(samples)]
        for _ in range(TURNS):
            over = {i for i, game in enumerate(games) if game.ending}
            trunks = [np.array(game.tokens) for game in games]
            requests = [[game.request()] for game in games]
            for i, (drawn,) in sample(
                params, cfg, trunks, requests, key, ENDS, SAMPLING, engine, mesh, over
            ):
                games[i].act(drawn)
        return [game.played() for game in games]

    return play


@pytest.fixture(scope="module")
def episodes(tiny_cfg, place) -> list[list[Played]]:
    """A dozen episodes of each task, with log-probs as of another policy: ratios are not 1."""
    mesh, params = place(1, 1, 1)
    found = player(tiny_cfg, mesh, SAMPLES)(params, TASKS, jax.random.key(3))
    rng = np.random.default_rng(0)

    def elsewhere(move: Move) -> Move:
        noise = rng.normal(0, 0.2, len(move.behaviour)).astype(np.float32)
        return dataclasses.replace(move, behaviour=move.behaviour + noise)

    return [
        [dataclasses.replace(e, moves=tuple(map(elsewhere, e.moves))) for e in own]
        for own in chunks(found, SAMPLES)
    ]  # fmt: skip


OPTIMIZER = make_optimizer(OptimizerSettings(learning_rate=0.02, clip_norm=1e9), 4)


@pytest.fixture(scope="module")
def updates(tiny_cfg, place):
    """On a mesh of the given sizes: an update, and what makes a new state."""

    @functools.cache
    def updates(*sizes: int):
        mesh, _ = place(*sizes)
        layout = state_shardings(OPTIMIZER, tiny_cfg, mesh)
        update = policy_update(
            tiny_cfg, OPTIMIZER, layout, PolicySettings(), AdvantageSettings(),
            temperature=1.0, remat="full",
        )  # fmt: skip
        return in_micro_batches(update, mesh), lambda: new_state(
            place(*sizes)[1], OPTIMIZER, layout
        )

    return updates


@pytest.fixture(scope="module")
def updated(updates, place):
    """The metrics of one update and the gradient that it took."""

    def updated(batch: PolicyBatch, *sizes: int):
        update, fresh = updates(*sizes)
        with jax.set_mesh(place(*sizes)[0]):
            state, metrics = update(fresh(), None, batch)
        first = optax.tree_utils.tree_get(state.opt_state, "mu")
        return jax.device_get((metrics, jax.tree.map(lambda x: 10 * x, first)))

    return updated


def batch_of(episodes, unfinished: str = "fail", shards: int = 1, scale: float = 1) -> PolicyBatch:
    rewards_PK, *others = outcomes(episodes, unfinished)
    return episode_batch(episodes, scale * rewards_PK, *others, multiple=MULTIPLE, shards=shards)


def far(ours: Params, theirs: Params) -> float:
    distance = lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b)  # noqa: E731
    return max(jax.tree.leaves(jax.tree.map(distance, *jax.device_get((ours, theirs)))))


@pytest.fixture(scope="module")
def flat(tiny_cfg, tiny_params, episodes):
    """Loss and gradient of eq. 7 for one advantage an episode, NaN for one that does not count:
    one plain causal row per episode, dense log-probs."""
    played = [episode for own in episodes for episode in own]
    shape = (len(played), max(len(episode.tokens) for episode in played))
    tokens, old, action = np.zeros(shape, int), np.zeros(shape, np.float32), np.zeros(shape, bool)
    for row, episode in enumerate(played):
        tokens[row, : len(episode.tokens)] = episode.tokens
        for move in episode.moves:
            action[row, move.start : move.end] = True
            old[row, move.start : move.end] = move.behaviour

    @jax.jit
    @jax.value_and_grad
    def loss(params: Params, advantage: jax.Array) -> jax.Array:
        logp = jax.nn.log_softmax(logits(params, tiny_cfg, tokens))[:, :-1]
        own = jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)[..., 0]
        counts, advantage = action[:, 1:] & ~jnp.isnan(advantage), jnp.nan_to_num(advantage)
        ratio = jnp.exp(own - old[:, 1:])
        gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
        return -jnp.where(counts, gain, 0).sum() / counts.sum()

    return lambda advantages: loss(tiny_params, np.array(advantages, np.float32)[:, None])


def by_hand(rewards: list[float]) -> list[float]:
    """Eq. 7 within one group; those that are NaN are not in it."""
    return list((np.array(rewards) - np.nanmean(rewards)) / (np.nanstd(rewards) + 1e-6))


@pytest.mark.parametrize(
    ("unfinished", "worth"),
    [("mask", lambda score: np.nan), ("score", lambda score: score), ("fail", lambda score: 0.0)],
    ids=["mask", "score", "fail"],
)
def test_loss_and_gradient_are_those_of_plain_rows(unfinished, worth, episodes, flat, updated):
    rewards = [[e.score if e.ending == "done" else worth(e.score) for e in own] for own in episodes]
    value, gradient = flat([one for own in rewards for one in by_hand(own)])
    metrics, found = updated(batch_of(episodes, unfinished), 1, 1, 1)
    assert metrics["loss"] == pytest.approx(float(value), abs=1e-5)
    assert far(found, gradient) < 1e-5
    assert metrics["action_tokens"] == sum(
        len(move.behaviour)
        for own, rewards_K in zip(episodes, rewards, strict=True)
        for episode, reward in zip(own, rewards_K, strict=True)
        for move in episode.moves
        if not np.isnan(reward)
    )
    assert 0 < metrics["clip_share"] < 1


def test_the_episodes_end_in_every_way_and_differ(episodes):
    """Or else the tests here would be of little."""
    played = [episode for own in episodes for episode in own]
    assert {episode.ending for episode in played} == {"done", "turns", "truncated"}
    assert {len(episode.moves) for episode in played} == {1, 2}
    assert {episode.score for episode in played} == {0, 0.5, 1}


def test_what_is_masked_may_be_anything(episodes, updated):
    batch = batch_of(episodes)
    padding = batch.weight == 0
    assert padding.any()
    other = batch.replace(old_logp=np.where(padding, 99, batch.old_logp).astype(np.float32))
    jax.tree.map(np.testing.assert_array_equal, updated(batch, 1, 1, 1), updated(other, 1, 1, 1))


def test_groups_without_spread_give_no_gradient(episodes, updated):
    metrics, gradient = updated(batch_of(episodes, scale=0), 1, 1, 1)
    assert metrics["loss"] == metrics["grad_norm"] == 0
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    assert metrics["action_tokens"] > 0


def test_devices_that_share_the_episodes_of_a_task_find_the_same(episodes, updated):
    batch = batch_of(episodes, shards=8)
    assert len(batch.index) == 8 > len(episodes)
    metrics, gradient = updated(batch, 1, 8, 1)
    alone, expected = updated(batch_of(episodes), 1, 1, 1)
    assert far(gradient, expected) < 2e-5
    for name in alone.keys() - {"micro_tokens", "row_tokens"}:
        assert metrics[name] == pytest.approx(alone[name], rel=1e-5, abs=1e-6), name


@pytest.fixture(scope="module")
def run(tiny_cfg, place, updates):
    """The metrics of every step on the scripted game."""

    def run(steps: int, unfinished: str) -> list[dict]:
        settings = EndToEndSettings(
            tasks=len(TASKS), samples=SAMPLES, unfinished=unfinished, row_multiple=MULTIPLE,
            sampling=SAMPLING,
        )  # fmt: skip
        mesh, _ = place(1, 1, 1)
        update, fresh = updates(1, 1, 1)
        play = player(tiny_cfg, mesh, SAMPLES)
        step = episode_step(
            play, TASKS, None, update, settings, [0.04] * steps, jax.random.key(5), mesh
        )
        state, found = fresh(), []
        with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
            for number in range(steps):
                state, metrics = step(state, np.arange(len(TASKS)), number)
                found.append(metrics)
        return found

    return run


def test_the_policy_learns_the_game(run):
    found = run(24, "fail")
    rewards = [metrics["reward_mean"] for metrics in found]
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.4
    # What was played is what is scored.
    assert max(metrics["logp_gap"] for metrics in found) < 1e-3


def test_a_step_tells_what_it_cost(run):
    (metrics,) = run(1, "mask")
    shares = [metrics[f"ending/{name}"] for name in ("done", "turns", "tokens", "truncated")]
    assert sum(shares) == pytest.approx(1)
    assert metrics["rollout_turns"] == 24 * metrics["episode_turns"]
    assert 24 < metrics["rollout_turns"] < 48
    # Masked episodes were paid for all the same.
    assert 0 < metrics["action_tokens"] < metrics["sampled_tokens"]
    assert metrics["lr"] == 0.04
    assert metrics["seconds_sampling"] > 0
    assert metrics["seconds_update"] > 0
