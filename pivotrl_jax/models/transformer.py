"""A decoder-only transformer as pure functions of a parameter tree.

Llama, Qwen2 and Qwen3 differ by the optional leaves of `LayerParams` alone. Letters: see
`pivotrl_jax.dims`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.tree_attention import RESIDUALS, tree_attention
from pivotrl_jax.models.config import ExpertConfig, ModelConfig, RopeScaling
from pivotrl_jax.models.experts import PRODUCTS, Pick, expert_layer, likeliest, load
from pivotrl_jax.models.params import LayerParams, Params, head
from pivotrl_jax.parallel.sharding import constrain
from pivotrl_jax.trees.tree import TokenTree, causal

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    x32 = x.astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (y * scale.astype(jnp.float32)).astype(x.dtype)


def rope_frequencies(cfg: ModelConfig) -> Float[Array, "E/2"]:
    """Radians per position of every rotated pair, with Llama 3 scaling where configured."""
    freqs = cfg.rope_theta ** (-jnp.arange(0, cfg.head_dim, 2, dtype=jnp.float32) / cfg.head_dim)
    return freqs if cfg.rope_scaling is None else _llama3_scaled(freqs, cfg.rope_scaling)


def _llama3_scaled(freqs: jax.Array, scaling: RopeScaling) -> jax.Array:
    """Slows low frequencies by `factor` and blends in between (Llama 3.1)."""
    turns = scaling.original_max_positions * freqs / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = jnp.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return freqs * (keep + (1 - keep) / scaling.factor)


def rotate(x: jax.Array, positions: Int[Array, "..."], freqs: Float[Array, "E/2"]) -> jax.Array:
    """Rotary embedding in the half-split layout; `positions` has the shape of x's leading axes."""
    angles = positions[..., None].astype(jnp.float32) * freqs
    angles = angles.reshape(*positions.shape, *(1,) * (x.ndim - positions.ndim - 1), -1)
    sin, cos = jnp.sin(angles)[..., None, :], jnp.cos(angles)[..., None, :]
    halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
    # [-b, a] of [a, b]: a flip joins the products in one loop, which halves put together would not.
    sign = jnp.array([[-1.0], [1.0]])
    turned = halves * cos + jnp.flip(halves, axis=-2) * (sin * sign)
    return turned.reshape(x.shape).astype(x.dtype)


def project_qkv(
    p: LayerParams, cfg: ModelConfig, x: jax.Array, positions: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries [..., H, G, E], keys and values [..., H, E] of normed activations [..., D]."""
    q = jnp.einsum("...d,dhge->...hge", x, p.q)
    k = jnp.einsum("...d,dhe->...he", x, p.k)
    v = jnp.einsum("...d,dhe->...he", x, p.v)
    if p.q_bias is not None:
        q, k, v = q + p.q_bias, k + p.k_bias, v + p.v_bias
    if p.q_norm is not None:
        q, k = rms_norm(q, p.q_norm, cfg.norm_eps), rms_norm(k, p.k_norm, cfg.norm_eps)
    freqs = rope_frequencies(cfg)
    return rotate(q, positions, freqs), rotate(k, positions, freqs), v


def layer(
    p: LayerParams,
    cfg: ModelConfig,
    x: jax.Array,
    positions: jax.Array,
    attend: Attend,
    pick: Pick = likeliest,
) -> jax.Array:
    """One block on activations [..., D]; `attend(q, k, v)` gives [..., H, G, E], and `pick` chooses
    the experts that a token goes through."""
    shape = x.shape
    # One axis of tokens: from [1, T, D] XLA:CPU differentiates a norm twenty times slower.
    x, positions = x.reshape(-1, shape[-1]), positions.reshape(-1)

    def tokens(a: jax.Array) -> jax.Array:
        return a.reshape(*shape[:-1], *a.shape[1:])

    with jax.named_scope("attention"):
        q, k, v = project_qkv(p, cfg, rms_norm(x, p.attn_norm, cfg.norm_eps), positions)
        out = attend(tokens(q), tokens(k), tokens(v)).reshape(q.shape)
        x = x + jnp.einsum("thge,hged->td", out, p.o)
    with jax.named_scope("ffn"):
        y = rms_norm(x, p.ffn_norm, cfg.norm_eps)
        return (x + feed_forward(p, cfg, y, pick)).reshape(shape)


def feed_forward(
    p: LayerParams, cfg: ModelConfig, x_TD: Float[Array, "T D"], pick: Pick
) -> Float[Array, "T D"]:
    if cfg.experts is not None:
        return expert_layer(p, cfg.experts, x_TD, pick)
    return (jax.nn.silu(x_TD @ p.gate) * (x_TD @ p.up)) @ p.down


Remat = Literal["dots", "full"]
# Attention is never done twice: its output takes little memory, and it is what grows with length.
ATTENTION = jax.checkpoint_policies.save_only_these_names(*RESIDUALS)
REMAT = {
    "full": ATTENTION,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(*RESIDUALS, *PRODUCTS),
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
    params: Params, cfg: ModelConfig, tree: TokenTree, remat: Remat = "dots"
) -> tuple[Float[Array, "R T D"], Int[Array, "N X"] | None]:
    """`hidden`, and how many tokens each expert of each layer got; None without experts."""
    x = constrain(params.embed[tree.tokens], "rows", None, None)

    @partial(jax.checkpoint, policy=REMAT[remat])
    def body(x: jax.Array, p: LayerParams) -> tuple[jax.Array, jax.Array | None]:
        loads = []

        def pick(experts: ExpertConfig, probs_TX: jax.Array) -> jax.Array:
            chosen_TJ = likeliest(experts, probs_TX)
            loads.append(load(chosen_TJ, tree.segments.reshape(-1) >= 0, experts.number))
            return chosen_TJ

        attend = partial(tree_attention, tree=tree)
        x = constrain(layer(p, cfg, x, tree.positions, attend, pick), "rows", None, None)
        return x, loads[0] if loads else None

    x, load_NX = jax.lax.scan(body, x, params.layers)
    return rms_norm(x, params.final_norm, cfg.norm_eps), load_NX


def logits(params: Params, cfg: ModelConfig, tokens_RT: Int[Array, "R T"]) -> Float[Array, "R T V"]:
    """Next-token logits of plain causal rows, float32. For tests; losses never build them."""
    h = hidden(params, cfg, causal(tokens_RT))
    return jnp.einsum("rtd,vd->rtv", h, head(params), preferred_element_type=jnp.float32)
