"""A decoder-only transformer as pure functions of a parameter tree.

Families differ by the optional leaves of `LayerParams` and by the facts of `ModelConfig`, layers of
one model by `LayerKind` alone: one scanned body serves local and global layers. Letters: see
`pivotrl_jax.dims`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kernels.tree_attention import RESIDUALS, tree_attention
from pivotrl_jax.models.config import (
    ExpertConfig,
    LinearScaling,
    ModelConfig,
    RopeScaling,
    YarnScaling,
)
from pivotrl_jax.models.experts import (
    PRODUCTS,
    Pick,
    differ,
    expert_layer,
    likeliest,
    load,
    replayed,
)
from pivotrl_jax.models.lora import PROJECTED, project
from pivotrl_jax.models.params import LayerParams, Params, head, head_logits
from pivotrl_jax.parallel.sharding import constrain, merged, unmerged
from pivotrl_jax.trees.tree import TokenTree, causal

# Of queries, keys, values, and the heads' sinks if they have some.
Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}
# A window that holds every position.
ALL = 2**30


@flax.struct.dataclass
class LayerKind:
    """What tells one layer from another besides parameters; stacked along N, or of one layer.

    A scan takes it beside `LayerParams`. `window` is None where no layer of the model is local;
    otherwise the global ones have one that leaves nothing out.
    """

    freqs: Float[Array, "*N E/2"]  # radians per position of every rotated pair
    window: Int[Array, "*N"] | None


def layer_kinds(cfg: ModelConfig) -> LayerKind:
    """The kinds of all layers, stacked along N."""
    freqs = rope_frequencies(cfg)
    if cfg.local is None:
        return LayerKind(jnp.broadcast_to(freqs, (cfg.layers, *freqs.shape)), None)
    is_local = jnp.arange(1, cfg.layers + 1) % cfg.local.period != 0
    theta = cfg.local.rope_theta
    local_freqs = freqs if theta is None else _frequencies(theta, cfg.head_dim)
    return LayerKind(
        jnp.where(is_local[:, None], local_freqs, freqs), jnp.where(is_local, cfg.local.window, ALL)
    )


def embedded(params: Params, cfg: ModelConfig, tokens: Int[Array, "R T"]) -> Float[Array, "R T D"]:
    """What the first layer reads."""
    x = params.embed[constrain(tokens, "rows", "places")]
    if cfg.scaled_embed:
        x = x * jnp.asarray(cfg.width**0.5, x.dtype)
    return constrain(x, "rows", "places", None)


def rms_norm(x: jax.Array, scale: jax.Array, cfg: ModelConfig) -> jax.Array:
    x32 = x.astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + cfg.norm_eps)
    return (y * (cfg.norm_offset + scale.astype(jnp.float32))).astype(x.dtype)


def rope_frequencies(cfg: ModelConfig) -> Float[Array, "E/2"]:
    """Radians per position of every rotated pair in global layers, scaled where configured."""
    freqs = _frequencies(cfg.rope_theta, cfg.head_dim)
    match cfg.rope_scaling:
        case RopeScaling() as scaling:
            return _llama3_scaled(freqs, scaling)
        case LinearScaling(factor):
            return freqs / factor
        case YarnScaling() as scaling:
            return _yarn_scaled(freqs, cfg.rope_theta, scaling)
    return freqs


def _frequencies(theta: float, width: int) -> Float[Array, "E/2"]:
    return theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)


def _llama3_scaled(freqs: jax.Array, scaling: RopeScaling) -> jax.Array:
    """Slows low frequencies by `factor` and blends in between (Llama 3.1)."""
    turns = scaling.original_max_positions * freqs / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = jnp.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return freqs * (keep + (1 - keep) / scaling.factor)


def _yarn_scaled(freqs: jax.Array, theta: float, scaling: YarnScaling) -> jax.Array:
    """Slows low frequencies by `factor` and blends in between, over pairs in their order."""
    pairs = len(freqs)

    def pair_that_turns(times: float) -> float:
        turns = scaling.original_max_positions / (2 * math.pi * times)
        return pairs * math.log(turns) / math.log(theta)

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncated:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    slowed = jnp.clip((jnp.arange(pairs) - first) / max(last - first, 0.001), 0.0, 1.0)
    return freqs * (1 - slowed + slowed / scaling.factor)


def rotate(
    x: jax.Array, positions: Int[Array, "..."], freqs: Float[Array, "E/2"], scale: float = 1.0
) -> jax.Array:
    """`scale` times the rotary embedding of x in the half-split layout.

    `positions` has the shape of x's leading axes.
    """
    angles = positions[..., None].astype(jnp.float32) * freqs
    angles = angles.reshape(*positions.shape, *(1,) * (x.ndim - positions.ndim - 1), -1)
    sin, cos = jnp.sin(angles)[..., None, :], jnp.cos(angles)[..., None, :]
    halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
    # [-b, a] of [a, b]: a flip joins the products in one loop, which halves put together would not.
    sign = jnp.array([[-1.0], [1.0]])
    turned = halves * (cos * scale) + jnp.flip(halves, axis=-2) * (sin * sign * scale)
    return turned.reshape(x.shape).astype(x.dtype)


def project_qkv(
    p: LayerParams,
    cfg: ModelConfig,
    x: jax.Array,
    positions: jax.Array,
    freqs: Float[Array, "E/2"],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [..., H, G, E], keys and values [..., H, E] of normed activations [..., D].

    Attention divides the queries' scores by sqrt(E), so they bring what a `query_scalar` changes.
    """
    q = project(x, p.q, "...d,dhge->...hge", cfg.matmul_precision)
    k = project(x, p.k, "...d,dhe->...he", cfg.matmul_precision)
    v = project(x, p.v, "...d,dhe->...he", cfg.matmul_precision)
    if p.q_bias is not None:
        q, k, v = q + p.q_bias, k + p.k_bias, v + p.v_bias
    if p.q_norm is not None:
        q, k = rms_norm(q, p.q_norm, cfg), rms_norm(k, p.k_norm, cfg)
    scaling = cfg.rope_scaling
    own = scaling.magnitude if isinstance(scaling, YarnScaling) else 1.0
    scale = own * (cfg.head_dim / (cfg.query_scalar or cfg.head_dim)) ** 0.5
    q, k = rotate(q, positions, freqs, scale), rotate(k, positions, freqs, own)
    return q.astype(cfg.operand_dtype), k.astype(cfg.operand_dtype), v.astype(cfg.operand_dtype)


def layer(
    p: LayerParams,
    cfg: ModelConfig,
    x: jax.Array,
    positions: jax.Array,
    freqs: Float[Array, "E/2"],
    attend: Attend,
    pick: Pick = likeliest,
) -> jax.Array:
    """One block on activations [R, T, D]; `attend` gives [R, T, H, G, E], and `pick`, of tokens as
    `merged`, the experts that they go through."""
    shape = x.shape[:2]
    # One axis of tokens: from [1, T, D] XLA:CPU differentiates a norm twenty times slower.
    x, positions = merged(x), merged(positions)

    with jax.named_scope("attention"):
        q, k, v = project_qkv(p, cfg, rms_norm(x, p.attn_norm, cfg), positions, freqs)
        # What follows is in the dtype of x, whatever attention multiplied.
        q, k, v = (unmerged(a, shape) for a in (q, k, v))
        out = merged(attend(q, k, v, p.sinks)).astype(x.dtype)
        y = project(out, p.o, "thge,hged->td", cfg.matmul_precision)
        y = y if p.o_bias is None else y + p.o_bias
        x = x + (y if p.attn_post_norm is None else rms_norm(y, p.attn_post_norm, cfg))
    with jax.named_scope("ffn"):
        y = feed_forward(p, cfg, rms_norm(x, p.ffn_norm, cfg), pick)
        x = x + (y if p.ffn_post_norm is None else rms_norm(y, p.ffn_post_norm, cfg))
        return unmerged(x, shape)


def feed_forward(
    p: LayerParams, cfg: ModelConfig, x_TD: Float[Array, "T D"], pick: Pick
) -> Float[Array, "T D"]:
    if cfg.experts is not None:
        return expert_layer(p, cfg.experts, x_TD, pick)
    precision = cfg.matmul_precision
    gate_TF = project(x_TD, p.gate, "td,df->tf", precision)
    up_TF = project(x_TD, p.up, "td,df->tf", precision)
    return project(ACTIVATIONS[cfg.activation](gate_TF) * up_TF, p.down, "tf,fd->td", precision)


def final_hidden(params: Params, cfg: ModelConfig, x: jax.Array) -> jax.Array:
    """What the head reads of the last layer's output [..., D], in `cfg.operand_dtype`."""
    return rms_norm(x, params.final_norm, cfg).astype(cfg.operand_dtype)


Remat = Literal["dots", "full"]
# Attention is never done twice: its output takes little memory, and it is what grows with length.
ATTENTION = jax.checkpoint_policies.save_only_these_names(*RESIDUALS)
REMAT = {
    "full": ATTENTION,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(*RESIDUALS, *PRODUCTS, PROJECTED),
    ),
}


def hidden(
    params: Params, cfg: ModelConfig, tree: TokenTree, remat: Remat = "dots"
) -> Float[Array, "R T D"]:
    """Final normed hidden states of a token tree.

    `remat` names what the backward pass keeps of each layer: "dots" the matrix products and the
    attention's output, "full" the layer's input and the attention's output only.
    """
    return hidden_and_load(params, cfg, tree, remat)[0]


def hidden_and_load(
    params: Params,
    cfg: ModelConfig,
    tree: TokenTree,
    remat: Remat = "dots",
    routes_RTNJ: Int[Array, "R T N J"] | None = None,
) -> tuple[Float[Array, "R T D"], Int[Array, "N X"] | None, Bool[Array, "N R T"] | None]:
    """`hidden`, and how many tokens each expert of each layer got; None without experts.

    With `routes_RTNJ` tokens go through these experts (Ma et al. 2025, arXiv 2510.11370), and
    through their likeliest where they are `experts.UNKNOWN`. Their weights are the router's own
    probabilities of them either way, so that it has a gradient. The last result then says of which
    tokens the recorded experts are not the likeliest.
    """
    x = embedded(params, cfg, tree.tokens)
    routes_NRTJ = None if routes_RTNJ is None else jnp.moveaxis(routes_RTNJ, 2, 0)

    @partial(jax.checkpoint, policy=REMAT[remat])
    def body(
        x: jax.Array, own: tuple[LayerParams, LayerKind, jax.Array | None]
    ) -> tuple[jax.Array, tuple[jax.Array | None, jax.Array | None]]:
        p, kind, routes_RTJ = own
        loads, changed = [], []

        def pick(experts: ExpertConfig, probs_TX: jax.Array) -> jax.Array:
            chosen_TJ = likeliest(experts, probs_TX)
            if routes_RTJ is not None:
                likely_TJ = chosen_TJ
                chosen_TJ = replayed(merged(routes_RTJ), likely_TJ)
                changed.append(unmerged(differ(chosen_TJ, likely_TJ), tree.shape))
            loads.append(load(chosen_TJ, merged(tree.segments) >= 0, experts.number))
            return chosen_TJ

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, sinks: jax.Array | None) -> jax.Array:
            return tree_attention(q, k, v, tree, kind.window, sinks)

        x = layer(p, cfg, x, tree.positions, kind.freqs, attend, pick)
        found = loads[0] if loads else None, changed[0] if changed else None
        return constrain(x, "rows", "places", None), found

    layers = params.layers, layer_kinds(cfg), routes_NRTJ
    x, (load_NX, changed_NRT) = jax.lax.scan(body, x, layers)
    return final_hidden(params, cfg, x), load_NX, changed_NRT


def logits(params: Params, cfg: ModelConfig, tokens_RT: Int[Array, "R T"]) -> Float[Array, "R T V"]:
    """Next-token logits of plain causal rows, float32. For tests; losses never build them."""
    h = hidden(params, cfg, causal(tokens_RT))
    return head_logits(h, head(params, h.dtype))
