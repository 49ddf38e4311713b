"""The jitted decoding loop: every branch of every trunk, one token per step."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from pivotrl_jax.models.cache import Cache, branch_cache, decode_step, prefill, unstack
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.params import Params, head
from pivotrl_jax.parallel.sharding import constrain
from pivotrl_jax.sampling.tokens import SamplingSettings, draw


@flax.struct.dataclass
class Samples:
    """Sampled actions. Beyond `lengths` the arrays hold zeros."""

    tokens_RBS: Int[Array, "R B S"]
    behaviour_RBS: Float[Array, "R B S"]  # log-prob under the distribution drawn from
    plain_RBS: Float[Array, "R B S"]  # log-prob at temperature 1, nothing truncated
    lengths_RB: Int[Array, "R B"]
    truncated_RB: Bool[Array, "R B"]  # the cap came before the end of the turn


@flax.struct.dataclass
class _Loop:
    step: Int[Array, ""]
    hidden_RBD: Float[Array, "R B D"]
    running_RB: Bool[Array, "R B"]
    samples: Samples
    own: Cache


@partial(jax.jit, static_argnames=("cfg", "settings", "eot"))
def sample(
    params: Params,
    cfg: ModelConfig,
    trunks_RL: Int[Array, "R L"],
    start_RB: Int[Array, "R B"],
    keys_RB: PRNGKeyArray,
    settings: SamplingSettings,
    eot: int,
) -> Samples:
    """Samples one action per branch slot.

    Branch b of row r continues `trunks_RL[r, :start_RB[r, b]]` until it draws `eot` or reaches
    `settings.max_tokens`. A slot with start 0 is empty and stays so. Token t of a slot is drawn
    with `fold_in(key, t)`, so that a sample depends on its key and history alone, not on its
    neighbours, slot or batch.
    """
    with jax.named_scope("prefill"):
        hidden_RLD, trunk = prefill(params, cfg, trunks_RL)
        index = jnp.maximum(start_RB - 1, 0)[..., None]
        first = jnp.take_along_axis(hidden_RLD, index, axis=1)
    layers = unstack(params.layers, cfg.layers)

    def not_done(loop: _Loop) -> jax.Array:
        return (loop.step < settings.max_tokens) & loop.running_RB.any()

    def body(loop: _Loop) -> _Loop:
        tokens, samples, running = _draw_step(params, loop, keys_RB, settings, eot)
        hidden_RBD, own = decode_step(
            params, layers, cfg, tokens, loop.step, start_RB, trunk, loop.own
        )
        return _Loop(loop.step + 1, hidden_RBD, running, samples, own)

    with jax.named_scope("decode"):
        loop = jax.lax.while_loop(not_done, body, _start(cfg, first, start_RB, settings))
    return loop.samples.replace(truncated_RB=loop.running_RB)


def _start(
    cfg: ModelConfig, first: jax.Array, start_RB: jax.Array, settings: SamplingSettings
) -> _Loop:
    shape = (*start_RB.shape, settings.max_tokens)
    running = start_RB > 0
    zeros = jnp.zeros(shape, jnp.float32)
    lengths = jnp.zeros(start_RB.shape, jnp.int32)
    samples = Samples(jnp.zeros(shape, jnp.int32), zeros, zeros, lengths, running)
    own = branch_cache(cfg, *shape)
    return _Loop(jnp.int32(0), first, running, samples, own)


def _draw_step(
    params: Params, loop: _Loop, keys_RB: PRNGKeyArray, settings: SamplingSettings, eot: int
) -> tuple[jax.Array, Samples, jax.Array]:
    """Draws the next token of every slot and records it where the slot still runs."""
    shape = loop.running_RB.shape
    logits = jnp.einsum(
        "rbd,vd->rbv", loop.hidden_RBD, head(params), preferred_element_type=jnp.float32
    )
    logits = constrain(logits, "rows", None, None).reshape(-1, logits.shape[-1])
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys_RB.reshape(-1), loop.step)
    drawn = (x.reshape(shape) for x in draw(keys, logits, settings))
    tokens, behaviour, plain = (jnp.where(loop.running_RB, x, 0) for x in drawn)
    put = partial(jax.lax.dynamic_update_index_in_dim, index=loop.step, axis=2)
    old = loop.samples
    samples = old.replace(
        tokens_RBS=put(old.tokens_RBS, tokens),
        behaviour_RBS=put(old.behaviour_RBS, behaviour),
        plain_RBS=put(old.plain_RBS, plain),
        lengths_RB=old.lengths_RB + loop.running_RB,
    )
    return tokens, samples, loop.running_RB & (tokens != eot)


@jax.jit
def sample_keys(
    key: PRNGKeyArray, ids_RB: Int[Array, "R B"], samples_RB: Int[Array, "R B"]
) -> PRNGKeyArray:
    """One key per slot from a run's key, the candidate's id (uint32) and the sample's number."""

    def one(candidate: jax.Array, sample: jax.Array) -> PRNGKeyArray:
        return jax.random.fold_in(jax.random.fold_in(key, candidate), sample)

    return jax.vmap(jax.vmap(one))(ids_RB, samples_RB)
