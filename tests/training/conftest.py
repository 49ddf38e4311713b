"""Batches of real text, one token per byte, for the tiny policy."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from pivotrl_jax.models import ModelConfig, Params, logical_axes, shapes
from pivotrl_jax.parallel import MeshSettings, make_mesh, shardings
from pivotrl_jax.pivots import Rollouts, Row, Turn
from pivotrl_jax.sampling import Sample
from pivotrl_jax.training import (
    PolicyBatch,
    SupervisedBatch,
    micro_batches,
    policy_batch,
    supervised_batch,
)
from pivotrl_jax.trajectories import Action

DIALOGUE = Path(__file__).parent.parent / "text" / "data" / "mini_swe_agent.json"
MULTIPLE = 32


@pytest.fixture(scope="session")
def trunks() -> list[np.ndarray]:
    """The heads of four messages of a real dialogue."""
    messages = json.loads(DIALOGUE.read_text(encoding="utf-8"))["messages"]
    texts = [m["content"].encode()[: 50 + 9 * i] for i, m in enumerate(messages[:4])]
    return [np.frombuffer(text, np.uint8).astype(np.int32) for text in texts]


@pytest.fixture(scope="session")
def examples(trunks) -> list[tuple[np.ndarray, list[tuple[int, int]]]]:
    """Two action spans per trunk, of other lengths in every one."""
    return [(t, [(5 + i, 9 + 2 * i), (30, 40 + i)]) for i, t in enumerate(trunks)]


@pytest.fixture(scope="session")
def rows(trunks) -> list[Row]:
    """Two turns on each trunk but the last, which has one."""
    starts = [(12, 40), (30, 55), (1, 60), (25,)]
    return [
        (i, [Turn(f"{i}.{s}", str(i), "swe", s, i, s, s + 4, Action()) for s in own])
        for i, own in enumerate(starts)
    ]


@pytest.fixture(scope="session")
def rollout(rows, trunks) -> Rollouts:
    """Three samples per turn, of 1 to 6 tokens, up to 4 of them the expert's; log-probs near those
    of a uniform policy."""
    rng = np.random.default_rng(0)

    def one(turn: Turn) -> Sample:
        n = rng.integers(1, 7)
        shared = min(rng.integers(0, 5), n, turn.end - turn.start)
        logp = (np.log(1 / 256) + rng.normal(0, 0.5, n)).astype(np.float32)
        tokens = rng.integers(256, size=n)
        tokens[:shared] = trunks[turn.trunk][turn.start :][:shared]
        return Sample(tokens, logp, logp - 1, truncated=False, drafted=shared)

    turns = [turn for _, part in rows for turn in part]
    return Rollouts(turns, [[one(turn) for _ in range(3)] for turn in turns])


@pytest.fixture(scope="session")
def reward_PK(rollout) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(rollout.turns), 3)).astype(np.float32)


@pytest.fixture(scope="session")
def supervised_rows(examples) -> SupervisedBatch:
    return supervised_batch(examples, multiple=MULTIPLE, shards=99)


@pytest.fixture(scope="session")
def policy_rows(rows, trunks, rollout, reward_PK) -> PolicyBatch:
    return policy_batch(
        rows, trunks, rollout, reward_PK, reward_PK < 9, reward_PK > 9,
        pivots=2, multiple=MULTIPLE, shards=99,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_supervised(supervised_rows):
    """The batch in micro-batches of so many rows."""
    return partial(micro_batches, supervised_rows)


@pytest.fixture(scope="session")
def make_policy(policy_rows):
    """The same of the policy batch, its rewards times `scale`."""

    def make(rows: int, scale: float = 1.0) -> PolicyBatch:
        groups = policy_rows.groups
        groups = dataclasses.replace(groups, reward_RPK=scale * groups.reward_RPK)
        return micro_batches(policy_rows.replace(groups=groups), rows)

    return make


@pytest.fixture(scope="session")
def place(tiny_cfg: ModelConfig, tiny_params: Params):
    """A mesh of the given sizes and a copy of the tiny policy on it, or of another model."""

    def place(
        *sizes: int, cfg: ModelConfig = tiny_cfg, params: Params = tiny_params
    ) -> tuple[jax.sharding.Mesh, Params]:
        mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: np.prod(sizes)])
        layout = shardings(shapes(cfg), logical_axes(cfg), mesh)
        host = jax.device_get(params)
        return mesh, jax.tree.map(lambda x, s: jax.device_put(x.copy(), s), host, layout)

    return place
