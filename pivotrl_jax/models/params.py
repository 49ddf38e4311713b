"""The parameter tree. One class holds real, abstract or sharded arrays."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.parallel.sharding import Axes

# An array, a ShapeDtypeStruct, a sharding or a tuple of logical axes: whatever the tree is of.
Leaf = Any


DENSE_AXES: dict[str, Axes] = {
    "gate": ("layers", "width", "ffn"),
    "up": ("layers", "width", "ffn"),
    "down": ("layers", "ffn", "width"),
}
EXPERT_AXES: dict[str, Axes] = {
    "router": ("layers", "width", None),
    "expert_gate": ("layers", "experts", "width", "ffn"),
    "expert_up": ("layers", "experts", "width", "ffn"),
    "expert_down": ("layers", "experts", "ffn", "width"),
}


def _decoding(axes: Axes) -> Axes:
    """Of one layer's leaf in decoding, from those of all layers' otherwise."""
    table = {"experts": "spread_experts", "width": None}
    return tuple(table.get(name, name) if name else None for name in axes[1:])


def expert_axes(name: str, spread: bool) -> Axes:
    """Of one layer's leaf; `spread` as in LayerParams."""
    return _decoding(EXPERT_AXES[name]) if spread else EXPERT_AXES[name][1:]


@flax.struct.dataclass
class LayerParams:
    """All layers, stacked along a leading axis N."""

    attn_norm: Leaf  # N D
    q: Leaf  # N D H G E
    k: Leaf  # N D H E
    v: Leaf  # N D H E
    o: Leaf  # N H G E D
    ffn_norm: Leaf  # N D
    gate: Leaf = None  # N D F
    up: Leaf = None  # N D F
    down: Leaf = None  # N F D
    q_bias: Leaf = None  # N H G E, Qwen2
    k_bias: Leaf = None  # N H E
    v_bias: Leaf = None  # N H E
    q_norm: Leaf = None  # N E, Qwen3
    k_norm: Leaf = None  # N E
    attn_post_norm: Leaf = None  # N D, Gemma 3
    ffn_post_norm: Leaf = None  # N D
    router: Leaf = None  # N D X; with experts, which `gate`, `up` and `down` then are None for
    expert_gate: Leaf = None  # N X D F
    expert_up: Leaf = None  # N X D F
    expert_down: Leaf = None  # N X F D
    # One layer, laid out as `decoding_axes` has it.
    spread: bool = flax.struct.field(pytree_node=False, default=False)


@flax.struct.dataclass
class Params:
    embed: Leaf  # V D
    layers: LayerParams
    final_norm: Leaf  # D
    head: Leaf = None  # V D; None when tied to `embed`


def shapes(cfg: ModelConfig) -> Params:
    """Abstract parameters: a `ShapeDtypeStruct` per leaf."""
    n, d, h, g, e = cfg.layers, cfg.width, cfg.kv_heads, cfg.groups, cfg.head_dim

    def leaf(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(cfg.dtype))

    bias: dict[str, Any] = {
        "q_bias": leaf(n, h, g, e),
        "k_bias": leaf(n, h, e),
        "v_bias": leaf(n, h, e),
    }
    norm: dict[str, Any] = {"q_norm": leaf(n, e), "k_norm": leaf(n, e)}
    post: dict[str, Any] = {"attn_post_norm": leaf(n, d), "ffn_post_norm": leaf(n, d)}
    layers = LayerParams(
        attn_norm=leaf(n, d),
        q=leaf(n, d, h, g, e),
        k=leaf(n, d, h, e),
        v=leaf(n, d, h, e),
        o=leaf(n, h, g, e, d),
        ffn_norm=leaf(n, d),
        **_ffn_shapes(cfg, leaf),
        **(bias if cfg.qkv_bias else {}),
        **(norm if cfg.qk_norm else {}),
        **(post if cfg.post_norms else {}),
    )
    head = None if cfg.tied else leaf(cfg.vocab, d)
    return Params(leaf(cfg.vocab, d), layers, leaf(d), head)


def _ffn_shapes(cfg: ModelConfig, leaf: Callable[..., Leaf]) -> dict[str, Leaf]:
    n, d, f = cfg.layers, cfg.width, cfg.ffn
    if cfg.experts is None:
        return {"gate": leaf(n, d, f), "up": leaf(n, d, f), "down": leaf(n, f, d)}
    x, f = cfg.experts.number, cfg.experts.ffn
    return {
        "router": leaf(n, d, x),
        "expert_gate": leaf(n, x, d, f),
        "expert_up": leaf(n, x, d, f),
        "expert_down": leaf(n, x, f, d),
    }


def logical_axes(cfg: ModelConfig) -> Params:
    """The logical axis names of every leaf; `parallel.sharding` maps them to mesh axes."""
    bias: dict[str, Any] = {
        "q_bias": ("layers", "kv_heads", None, None),
        "k_bias": ("layers", "kv_heads", None),
        "v_bias": ("layers", "kv_heads", None),
    }
    norm: dict[str, Any] = {"q_norm": ("layers", None), "k_norm": ("layers", None)}
    ffn: dict[str, Any] = {**(DENSE_AXES if cfg.experts is None else EXPERT_AXES)}
    post: dict[str, Any] = {
        "attn_post_norm": ("layers", "width"),
        "ffn_post_norm": ("layers", "width"),
    }
    layers = LayerParams(
        attn_norm=("layers", "width"),
        q=("layers", "width", "kv_heads", None, None),
        k=("layers", "width", "kv_heads", None),
        v=("layers", "width", "kv_heads", None),
        o=("layers", "kv_heads", None, None, "width"),
        ffn_norm=("layers", "width"),
        **ffn,
        **(bias if cfg.qkv_bias else {}),
        **(norm if cfg.qk_norm else {}),
        **(post if cfg.post_norms else {}),
    )
    head = None if cfg.tied else ("vocab", "width")
    return Params(("vocab", "width"), layers, ("width",), head)


def decoding_axes(cfg: ModelConfig) -> LayerParams:
    """The logical axes of one layer of a model with experts while it decodes: nothing is gathered
    for a token, since every device has a share of the experts and the whole of all else."""
    axes = logical_axes(cfg).layers
    return jax.tree.map(_decoding, axes, is_leaf=lambda x: isinstance(x, tuple))


def head(params: Params, dtype: jnp.dtype) -> jax.Array:
    """The output head, V D, in the dtype of the final hidden states that it multiplies."""
    return (params.embed if params.head is None else params.head).astype(dtype)


def head_logits(hidden: jax.Array, head_VD: Float[Array, "V D"]) -> jax.Array:
    """Logits [..., V] of final hidden states [..., D], float32."""
    return jnp.einsum("...d,vd->...v", hidden, head_VD, preferred_element_type=jnp.float32)


def init(key: jax.Array, cfg: ModelConfig) -> Params:
    """Random parameters: norms multiply by 1, biases 0, matrices normal with std 1/sqrt(width)."""
    abstract = shapes(cfg)
    leaves, tree = jax.tree.flatten_with_path(abstract)
    keys = jax.random.split(key, len(leaves))

    def make(path: tuple, leaf: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
        name = path[-1].name
        if name.endswith("norm"):
            return jnp.full(leaf.shape, 1 - cfg.norm_offset, leaf.dtype)
        if name.endswith("bias"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jax.random.normal(key, leaf.shape, leaf.dtype) * cfg.width**-0.5

    made = [make(p, x, k) for (p, x), k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, made)
