"""What lies in memory between the sampler's jitted calls: trunks, slots and what they drew."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from pivotrl_jax.models.cache import Cache, branch_cache, trunk_cache
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.experts import UNKNOWN, route_dtype
from pivotrl_jax.parallel.sharding import Axes, constrain
from pivotrl_jax.sampling.tokens import SamplingSettings

HIDDEN: Axes = ("rows", "places", None)


@flax.struct.dataclass
class Drawn:
    """What the slots have drawn; zeros beyond a slot's length."""

    tokens_RBS: Int[Array, "R B S"]
    behaviour_RBS: Float[Array, "R B S"]  # log-prob under the distribution drawn from
    plain_RBS: Float[Array, "R B S"]  # log-prob at temperature 1, nothing truncated


@flax.struct.dataclass
class Slots:
    trunk: Cache
    trunk_hidden_RLD: Float[Array, "R L D"]
    own: Cache
    drawn: Drawn
    start_RB: Int[Array, "R B"]  # trunk tokens before the slot's own
    drafted_RB: Int[Array, "R B"]  # of the tokens drawn, those that lie on the trunk
    length_RB: Int[Array, "R B"]  # tokens drawn so far
    running_RB: Bool[Array, "R B"]
    hidden_RBD: Float[Array, "R B D"]  # final hidden state before the next draw
    keys_RB: PRNGKeyArray
    # The experts that a slot's token number s went through, if it was decoded and read; what
    # stands at all others is without meaning. None where routes are not recorded.
    routes_RBSNJ: Int[Array, "R B S N J"] | None = None


@flax.struct.dataclass
class Refill:
    """Slots to start anew: what they have drawn along the expert's action already, where they go
    on from there, and with which key."""

    fresh_RB: Bool[Array, "R B"]
    start_RB: Int[Array, "R B"]
    drafted_RB: Int[Array, "R B"]
    drawn: Drawn
    keys_RB: PRNGKeyArray


@partial(jax.jit, static_argnames=("cfg", "settings", "shape", "length", "routes"))
def idle_slots(
    cfg: ModelConfig,
    settings: SamplingSettings,
    shape: tuple[int, int],
    length: int,
    *,
    routes: bool = False,
) -> Slots:
    """R rows of B slots (`shape`) with room for trunks of `length` tokens; nothing runs.

    With `routes` the slots record the experts of their tokens.
    """
    rows = shape[0]
    zeros = jnp.zeros((*shape, settings.max_tokens), jnp.float32)
    hidden_RLD = jnp.zeros((rows, length, cfg.width), cfg.operand_dtype)
    return Slots(
        trunk=trunk_cache(cfg, rows, length),
        trunk_hidden_RLD=constrain(hidden_RLD, *HIDDEN),
        own=branch_cache(cfg, *shape, settings.max_tokens),
        drawn=Drawn(zeros.astype(jnp.int32), zeros, zeros),
        start_RB=jnp.zeros(shape, jnp.int32),
        drafted_RB=jnp.zeros(shape, jnp.int32),
        length_RB=jnp.zeros(shape, jnp.int32),
        running_RB=jnp.zeros(shape, bool),
        hidden_RBD=jnp.zeros((*shape, cfg.width), cfg.operand_dtype),
        keys_RB=jnp.broadcast_to(jax.random.key(0), shape),
        routes_RBSNJ=_no_routes(cfg, (*shape, settings.max_tokens)) if routes else None,
    )


def _no_routes(cfg: ModelConfig, shape: tuple[int, ...]) -> Int[Array, "R B S N J"]:
    """Raises ValueError for a model without experts."""
    if cfg.experts is None:
        raise ValueError(f"{cfg.name} has no experts, and so no routes to record")
    shape = (*shape, cfg.layers, cfg.experts.active)
    unknown = jnp.full(shape, UNKNOWN, route_dtype(cfg.experts))
    return constrain(unknown, "rows", "places", None, None, None)
