"""The jitted steps of a run, lowered for devices that need not be there.

Nothing is allocated on a device: parameters, states and caches are shapes with shardings.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.settings import Settings
from experiments.stages.train import update_on_pivots
from kernels.tree_attention.blocks import blocks_for, padded
from kernels.tree_attention.sights import seen, sights
from pivotrl_jax.models import ModelConfig, Params, logical_axes, shapes
from pivotrl_jax.parallel import abstract_rows, placed, row_shards, shardings
from pivotrl_jax.pivots import Rollouts, Turn
from pivotrl_jax.sampling import Request, Sample, engine
from pivotrl_jax.sampling.sampler import engine_shape
from pivotrl_jax.sampling.slots import Drawn, Refill, Slots, idle_slots
from pivotrl_jax.training import (
    PolicyBatch,
    abstract_state,
    make_optimizer,
    micro_batches,
    policy_batch,
    state_shardings,
    token_logprobs,
)
from pivotrl_jax.trajectories import Action
from pivotrl_jax.trees import TokenTree

# A stand-in for the tokenizer's, which is not read.
ENDS = (0,)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compiled: a run on a mesh, where every trunk has `history` tokens and every sample
    `action` tokens of its own."""

    settings: Settings
    cfg: ModelConfig
    mesh: Mesh
    history: int
    action: int

    @property
    def devices_for_rows(self) -> int:
        return row_shards(self.mesh)

    @property
    def requests(self) -> list[list[Request]]:
        """Of the rows of one step."""
        train, end = self.settings.train, self.history + self.action
        own = [
            Request(self.history, end, p, k)
            for p in range(train.pivots_per_row)
            for k in range(train.samples)
        ]
        return [own] * train.rows


def abstract_params(cfg: ModelConfig, mesh: Mesh) -> Params:
    return placed(shapes(cfg), shardings(shapes(cfg), logical_axes(cfg), mesh))


def outputs(compiled: jax.stages.Compiled, abstract: Any) -> Any:
    """The results of a program, laid out as it leaves them."""
    return placed(abstract, compiled.output_shardings)


class Sampling:
    """The programs of the sampler, in the order in which they hand slots on."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.params = plan, abstract_params(plan.cfg, plan.mesh)
        self.settings = plan.settings.train.sampling
        self.shape, self.length = engine_shape(plan.requests, plan.settings.engine, plan.mesh)

    def idle(self) -> Slots:
        static = (self.plan.cfg, self.settings, self.shape, self.length)
        # Without arguments, only the mesh itself tells for which devices.
        with jax.set_mesh(self.plan.mesh):
            compiled = idle_slots.lower(*static).compile()
        return outputs(compiled, jax.eval_shape(partial(idle_slots, *static)))

    def layers(self) -> Any:
        compiled = engine.decoding_layers.lower(self.params, self.plan.cfg).compile()
        split = partial(engine.decoding_layers, cfg=self.plan.cfg)
        return outputs(compiled, jax.eval_shape(split, self.params))

    def rows(self, *shape: int, dtype: Any = jnp.int32) -> Any:
        return abstract_rows(jax.ShapeDtypeStruct(shape, dtype), self.plan.mesh)

    def prefill(self, slots: Slots) -> jax.stages.Lowered:
        batch = row_shards(self.plan.mesh)
        trunks, places = self.rows(batch, self.length), self.rows(batch)
        return engine.load_trunks.lower(self.params, self.plan.cfg, slots, trunks, places)

    def decode(self, slots: Slots, layers: Any) -> jax.stages.Lowered:
        rows, branches = self.shape
        number = self.rows(rows, branches)
        cap = (rows, branches, self.settings.max_tokens)
        flags, keys = (
            self.rows(rows, branches, dtype=kind) for kind in (bool, jax.random.key(0).dtype)
        )
        logs = self.rows(*cap, dtype=jnp.float32)
        drawn = Drawn(self.rows(*cap), logs, logs)
        refill = Refill(flags, number, number, drawn, keys)
        return engine.advance.lower(
            self.params, layers, self.plan.cfg, slots, refill, self.settings, ENDS,
            self.plan.settings.engine.chunk,
        )  # fmt: skip


def update_batch(plan: Plan) -> PolicyBatch:
    """One step's batch on the host: every trunk full, no sample sharing a token with its expert."""
    train, history = plan.settings.train, plan.history
    turns = [
        [
            Turn(f"{r}-{p}", str(r), plan.settings.domain, p, r, history, history + 1, Action())
            for p in range(train.pivots_per_row)
        ]
        for r in range(train.rows)
    ]
    every = [turn for own in turns for turn in own]
    logp = np.zeros(plan.action, np.float32)
    drawn = Sample(np.zeros(plan.action, np.int32), logp, logp, truncated=False)
    valid_PK = np.ones((len(every), train.samples), bool)
    return policy_batch(
        list(enumerate(turns)),
        [np.zeros(history + 1, np.int32)] * train.rows,
        Rollouts(every, [[drawn] * train.samples] * len(every)),
        np.zeros(valid_PK.shape),
        valid_PK,
        ~valid_PK,
        pivots=train.pivots_per_row,
        multiple=train.row_multiple,
        shards=row_shards(plan.mesh),
        experts=train.sft_coef != 0,
    )


class Training:
    """The programs of a step's update."""

    def __init__(self, plan: Plan) -> None:
        train = plan.settings.train
        self.plan, self.batch = plan, update_batch(plan)
        self.optimizer = make_optimizer(train.optimizer, train.steps)
        self.layout = state_shardings(self.optimizer, plan.cfg, plan.mesh)
        self.state = abstract_state(plan.cfg, self.optimizer, self.layout)
        kept = plan.settings.objective.kl_coef != 0
        self.reference = abstract_params(plan.cfg, plan.mesh) if kept else None

    @property
    def rows(self) -> int:
        """Of a device."""
        return -(-self.batch.tree.shape[0] // row_shards(self.plan.mesh))

    def update(self, size: int) -> jax.stages.Lowered:
        """With micro-batches of `size` rows per device."""
        step = update_on_pivots(self.plan.settings, self.plan.cfg, self.optimizer, self.layout)
        cut = micro_batches(self.batch, size * row_shards(self.plan.mesh))
        micro = abstract_rows(cut, self.plan.mesh, axis=1)
        return step.lower(self.state, self.reference, micro)

    def score(self, size: int) -> jax.stages.Lowered:
        """The log-probs of one micro-batch's scored tokens."""
        cut = micro_batches(self.batch, size * row_shards(self.plan.mesh))
        first = jax.tree.map(lambda x: x[0], cut)
        tree, index = abstract_rows((first.tree, first.index), self.plan.mesh)
        train = self.plan.settings.train
        run = jax.jit(token_logprobs, static_argnames=("cfg", "temperature", "remat"))
        return run.lower(
            self.state.params, self.plan.cfg, tree, index,
            temperature=train.sampling.temperature, remat=train.remat,
        )  # fmt: skip


def bytes_per_device(tree: Any) -> int:
    """Of abstract arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def seen_share(tree: TokenTree, cfg: ModelConfig, kind: str, devices: int) -> float:
    """Of the first row's pairs of tokens, which `devices` share, the share in blocks that attention
    visits."""
    length = tree.shape[1]
    blocks = blocks_for(kind, cfg.groups, cfg.head_dim, length, devices)
    size = padded(length, blocks, devices)
    row = jax.tree.map(lambda x: np.asarray(x[:1]), tree)
    return float(seen(sights(row, size), blocks, size).mean())


def pairs(tree: TokenTree) -> float:
    """Visible pairs: a token sees all that comes before it in its sequence, and itself."""
    positions = np.asarray(tree.positions, np.float64)
    return float(np.sum((positions + 1) * (np.asarray(tree.segments) >= 0)))
