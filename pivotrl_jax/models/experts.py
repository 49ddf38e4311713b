"""A layer of experts: every token goes through the few that its router finds most likely.

Nothing is dropped: tokens are sorted by expert, and every expert multiplies as many as came.
Letters: see `pivotrl_jax.dims`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from kernels.grouped_dot import grouped_dot
from pivotrl_jax.models.config import ExpertConfig
from pivotrl_jax.models.params import LayerParams, expert_axes
from pivotrl_jax.parallel.sharding import RULES, spec

# From the probabilities of all experts [T, X] to those that a token goes through [T, J].
Pick = Callable[[ExpertConfig, jax.Array], jax.Array]
# Names of the products that a policy of `jax.checkpoint` may keep.
PRODUCTS = ("expert_gate", "expert_up")
# The leaves that devices may have a part of, as `mixture` takes them.
OPERANDS = ("expert_gate", "expert_up", "expert_down", "expert_gate_bias", "expert_up_bias")
# Of the sigmoid in gpt-oss's gates, which is then close to a normal distribution's.
STEEPNESS = 1.702
# In the place of a token's experts that nobody has recorded.
UNKNOWN = -1


def likeliest(cfg: ExpertConfig, probs_TX: Float[Array, "T X"]) -> Int[Array, "T J"]:
    return jax.lax.top_k(probs_TX, cfg.active)[1]


def recording(kept: list[jax.Array]) -> Pick:
    """`likeliest`, which adds what it chooses to `kept` in the dtype of `route_dtype`."""

    def pick(cfg: ExpertConfig, probs_TX: jax.Array) -> jax.Array:
        chosen_TJ = likeliest(cfg, probs_TX)
        kept.append(chosen_TJ.astype(route_dtype(cfg)))
        return chosen_TJ

    return pick


def route_dtype(cfg: ExpertConfig) -> np.dtype:
    """The smallest that holds the number of every expert and UNKNOWN."""
    return np.min_scalar_type(-cfg.number)


def replayed(recorded_TJ: Int[Array, "T J"], likely_TJ: Int[Array, "T J"]) -> Int[Array, "T J"]:
    """The recorded experts of every token, the likely ones where they are UNKNOWN."""
    return jnp.where(recorded_TJ == UNKNOWN, likely_TJ, recorded_TJ)


def differ(a_TJ: Int[Array, "T J"], b_TJ: Int[Array, "T J"]) -> Bool[Array, "T"]:
    """Whether a token's experts are others, in whatever order."""
    return (jnp.sort(a_TJ, axis=1) != jnp.sort(b_TJ, axis=1)).any(axis=1)


def expert_layer(
    p: LayerParams, cfg: ExpertConfig, x_TD: Float[Array, "T D"], pick: Pick = likeliest
) -> Float[Array, "T D"]:
    """The weighted sum of what a token's experts make of it.

    `pick` chooses them. Their weights are probabilities among all
    experts in float32. Under `jax.set_mesh` the experts lie over the axis `expert`, and tokens
    travel to them: see `_Layout`.
    """
    probs_TX = probabilities(p.router, p.router_bias, x_TD)
    chosen_TJ = pick(cfg, probs_TX)
    weight_TJ = jnp.take_along_axis(probs_TX, chosen_TJ, axis=1)
    if cfg.normalised:
        weight_TJ /= weight_TJ.sum(axis=1, keepdims=True)
    weight_TJ = weight_TJ.astype(x_TD.dtype)
    operands = (getattr(p, name) for name in OPERANDS)
    y_TD = _on_mesh(cfg, x_TD, p)(x_TD, chosen_TJ, weight_TJ, *operands)
    if p.expert_down_bias is None:
        return y_TD
    # Of all experts in one product, which spares every pair of a token and an expert its own sum.
    hot_TJX = jax.nn.one_hot(chosen_TJ, cfg.number, dtype=x_TD.dtype)
    return y_TD + jnp.einsum("tj,tjx,xd->td", weight_TJ, hot_TJX, p.expert_down_bias)


def probabilities(
    router_DX: Float[Array, "D X"], bias_X: Float[Array, "X"] | None, x_TD: Float[Array, "T D"]
) -> Float[Array, "T X"]:
    """Of every expert for every token, float32."""
    logits_TX = jnp.einsum(
        "td,dx->tx", x_TD, router_DX, precision="highest", preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits_TX if bias_X is None else logits_TX + bias_X, axis=-1)


def gated(cfg: ExpertConfig, gate: jax.Array, up: jax.Array) -> jax.Array:
    """What an expert's gate lets through: SwiGLU, or with a `limit` that of gpt-oss.

    That one keeps both its operands within the limit, except that a gate may be as small as it
    likes, and lets something through even where `up` is 0.
    """
    if cfg.limit is None:
        return jax.nn.silu(gate) * up
    gate, up = jnp.minimum(gate, cfg.limit), jnp.clip(up, -cfg.limit, cfg.limit)
    return gate * jax.nn.sigmoid(STEEPNESS * gate) * (up + 1)


def load(
    chosen_TJ: Int[Array, "T J"], counted_T: Bool[Array, "T"], experts: int
) -> Int[Array, "X"]:
    """How many of the counted tokens go through each expert."""
    hit_TJX = chosen_TJ[..., None] == jnp.arange(experts)
    return jnp.sum(hit_TJX & counted_T[:, None, None], axis=(0, 1), dtype=jnp.int32)


def mixture(
    cfg: ExpertConfig,
    x_TD: Float[Array, "T D"],
    chosen_TJ: Int[Array, "T J"],
    weight_TJ: Float[Array, "T J"],
    gate_XDF: Float[Array, "X D F"],
    up_XDF: Float[Array, "X D F"],
    down_XFD: Float[Array, "X F D"],
    gate_bias_XF: Float[Array, "X F"] | None,
    up_bias_XF: Float[Array, "X F"] | None,
) -> Float[Array, "T D"]:
    """The weighted sum over a token's experts; those numbered outside [0, X) add nothing.

    X may be a part of `cfg`'s, and so may F.
    """
    experts = len(gate_XDF)
    own_TJ = (chosen_TJ >= 0) & (chosen_TJ < experts)
    chosen_TJ = jnp.where(own_TJ, chosen_TJ, experts)
    sizes_X = load(chosen_TJ, jnp.ones(len(x_TD), bool), experts)
    order_I = jnp.argsort(chosen_TJ.reshape(-1))
    place_TJ = jnp.argsort(order_I).reshape(chosen_TJ.shape)

    x_ID = _spread(x_TD, order_I, place_TJ)
    gate_IF, up_IF = (grouped_dot(x_ID, w_XDF, sizes_X) for w_XDF in (gate_XDF, up_XDF))
    if gate_bias_XF is not None and up_bias_XF is not None:
        # A product, because the gradient of a lookup would add up rows one by one.
        hot_IX = jax.nn.one_hot(chosen_TJ.reshape(-1)[order_I], experts, dtype=x_TD.dtype)
        gate_IF, up_IF = gate_IF + hot_IX @ gate_bias_XF, up_IF + hot_IX @ up_bias_XF
    gate_IF, up_IF = map(checkpoint_name, (gate_IF, up_IF), PRODUCTS)
    # Weights come before the last product, so that its result need not be kept for their gradient.
    weight_I1 = weight_TJ.reshape(-1, 1)[order_I]
    y_ID = grouped_dot(gated(cfg, gate_IF, up_IF) * weight_I1, down_XFD, sizes_X)
    return _collect(y_ID, order_I, place_TJ)


@jax.custom_vjp
def _spread(
    x_TD: Float[Array, "T D"], order_I: Int[Array, "I"], place_TJ: Int[Array, "T J"]
) -> Float[Array, "I D"]:
    """Every token once for each of its experts, sorted by expert."""
    return x_TD[order_I // place_TJ.shape[1]]


@jax.custom_vjp
def _collect(
    y_ID: Float[Array, "I D"], order_I: Int[Array, "I"], place_TJ: Int[Array, "T J"]
) -> Float[Array, "T D"]:
    """Sums over every token's experts, in their order: the transpose of `_spread`."""
    return y_ID[place_TJ].sum(axis=1)


# Left to itself, either gradient would scatter rows one by one.
_spread.defvjp(
    lambda x, order, place: (_spread(x, order, place), (order, place)),
    lambda kept, d: (_collect(d, *kept), None, None),
)
_collect.defvjp(
    lambda y, order, place: (_collect(y, order, place), (order, place)),
    lambda kept, d: (_spread(d, *kept), None, None),
)


class _Layout(NamedTuple):
    """Which dimensions the mesh of `jax.set_mesh` divides.

    A device gathers the tokens of all n devices along `experts`, (n - 1) T x D numbers, puts them
    through its own experts, and the results are summed and scattered back, as many again. Its
    buffers have room for the case that all pairs of tokens and experts are its own. To send every
    token only where its experts are would take 1 - (1 - 1/n)^J of that, two thirds for J = n = 8,
    but sizes known only at run time (`ragged_all_to_all`, which XLA:CPU lacks).
    """

    cfg: ExpertConfig
    tokens: bool
    experts: tuple[str, ...] | None  # mesh axes
    width: bool
    ffn: bool

    def gathered(self, x: jax.Array, axis: str | tuple[str, ...], dimension: int) -> jax.Array:
        return jax.lax.all_gather(x, axis, axis=dimension, tiled=True)

    def run(
        self,
        x_TD: jax.Array,
        chosen_TJ: jax.Array,
        weight_TJ: jax.Array,
        gate_XDF: jax.Array,
        up_XDF: jax.Array,
        down_XFD: jax.Array,
        *biases_XF: jax.Array | None,
    ) -> jax.Array:
        """`mixture` on one device's slices of everything."""
        if self.width:
            gate_XDF, up_XDF = (self.gathered(w, RULES["width"], 1) for w in (gate_XDF, up_XDF))
            down_XFD = self.gathered(down_XFD, RULES["width"], 2)
        if self.experts and self.tokens:
            x_TD, chosen_TJ, weight_TJ = (
                self.gathered(x, self.experts, 0) for x in (x_TD, chosen_TJ, weight_TJ)
            )
        if self.experts:
            chosen_TJ = chosen_TJ - jax.lax.axis_index(self.experts) * len(gate_XDF)
        matrices = gate_XDF, up_XDF, down_XFD
        y_TD = mixture(self.cfg, x_TD, chosen_TJ, weight_TJ, *matrices, *biases_XF)
        if self.experts and self.tokens:
            y_TD = jax.lax.psum_scatter(y_TD, self.experts, scatter_dimension=0, tiled=True)
        elif self.experts:
            y_TD = jax.lax.psum(y_TD, self.experts)
        return jax.lax.psum(y_TD, "tensor") if self.ffn else y_TD


def _on_mesh(cfg: ExpertConfig, x_TD: jax.Array, p: LayerParams) -> Callable[..., jax.Array]:
    """`mixture`, divided over the devices of `jax.set_mesh` where there is more than one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return partial(mixture, cfg)
    tokens = spec(("tokens", None), x_TD.shape, mesh)
    if tokens[0] is None:
        tokens = spec(("rows", None), x_TD.shape, mesh)
    gate, up, down, *biases = (_laid(p, name, mesh) for name in OPERANDS)
    assert gate is not None
    experts, *divided = gate
    layout = _Layout(cfg, tokens[0] is not None, experts, *(part is not None for part in divided))
    return jax.shard_map(
        layout.run,
        in_specs=(tokens, tokens, tokens, gate, up, down, *biases),
        out_specs=tokens,
        check_vma=False,
    )


def _laid(p: LayerParams, name: str, mesh: AbstractMesh) -> PartitionSpec | None:
    """How a leaf lies on the mesh; None for one that is not there."""
    leaf = getattr(p, name)
    return None if leaf is None else spec(expert_axes(name, p.spread), leaf.shape, mesh)
