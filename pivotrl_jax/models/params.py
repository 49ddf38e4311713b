"""The parameter tree. One class holds real, abstract or sharded arrays."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.parallel.sharding import Axes

# An array, a ShapeDtypeStruct, a sharding or a tuple of logical axes: whatever the tree is of.
Leaf = Any
# What `parallel.sharding` calls the axes that it may divide.
LOGICAL = {"N": "layers", "D": "width", "H": "kv_heads", "F": "ffn", "X": "experts"}


def _stacked(axes: str, **default: Any) -> Any:
    return flax.struct.field(metadata={"axes": axes}, **default)


def _some(axes: str) -> Any:
    """A leaf that some families lack."""
    return _stacked(axes, default=None)


@flax.struct.dataclass
class LayerParams:
    """All layers, stacked along a leading axis N."""

    attn_norm: Leaf = _stacked("ND")
    q: Leaf = _stacked("NDHGE")
    k: Leaf = _stacked("NDHE")
    v: Leaf = _stacked("NDHE")
    o: Leaf = _stacked("NHGED")
    ffn_norm: Leaf = _stacked("ND")
    gate: Leaf = _some("NDF")
    up: Leaf = _some("NDF")
    down: Leaf = _some("NFD")
    q_bias: Leaf = _some("NHGE")  # Qwen2, gpt-oss
    k_bias: Leaf = _some("NHE")
    v_bias: Leaf = _some("NHE")
    o_bias: Leaf = _some("ND")  # gpt-oss
    sinks: Leaf = _some("NHG")
    q_norm: Leaf = _some("NE")  # Qwen3
    k_norm: Leaf = _some("NE")
    attn_post_norm: Leaf = _some("ND")  # Gemma 3
    ffn_post_norm: Leaf = _some("ND")
    router: Leaf = _some("NDX")  # with experts, in place of `gate`, `up` and `down`
    expert_gate: Leaf = _some("NXDF")
    expert_up: Leaf = _some("NXDF")
    expert_down: Leaf = _some("NXFD")
    router_bias: Leaf = _some("NX")  # gpt-oss
    expert_gate_bias: Leaf = _some("NXF")
    expert_up_bias: Leaf = _some("NXF")
    expert_down_bias: Leaf = _some("NXD")
    # One layer, laid out as `decoding_axes` has it.
    spread: bool = flax.struct.field(pytree_node=False, default=False)


DENSE = ("gate", "up", "down")
EXPERTS = ("router", "expert_gate", "expert_up", "expert_down")
EXPERT_BIASES = ("router_bias", "expert_gate_bias", "expert_up_bias", "expert_down_bias")
LETTERS = {
    field.name: field.metadata["axes"]
    for field in dataclasses.fields(LayerParams)
    if "axes" in field.metadata
}


def leaves(cfg: ModelConfig) -> list[str]:
    """Those of LayerParams that the architecture has, in their order."""
    has = {
        "q_bias": cfg.qkv_bias,
        "k_bias": cfg.qkv_bias,
        "v_bias": cfg.qkv_bias,
        "o_bias": cfg.o_bias,
        "sinks": cfg.sinks,
        "q_norm": cfg.qk_norm,
        "k_norm": cfg.qk_norm,
        "attn_post_norm": cfg.post_norms,
        "ffn_post_norm": cfg.post_norms,
        **dict.fromkeys(DENSE, cfg.experts is None),
        **dict.fromkeys(EXPERTS, cfg.experts is not None),
        **dict.fromkeys(EXPERT_BIASES, cfg.experts is not None and cfg.experts.bias),
    }
    return [name for name in LETTERS if has.get(name, True)]


def layer_axes(name: str) -> Axes:
    """The logical axes of a leaf of LayerParams. Every device has the whole router."""
    own = tuple(LOGICAL.get(letter) for letter in LETTERS[name])
    whole = name in ("router", "router_bias")
    return tuple(None if whole and axis == "experts" else axis for axis in own)


def decoding_layer_axes(name: str) -> Axes:
    """The logical axes of one layer's leaf in decoding. What outputs of experts are shifted by is
    added after their sum, on every device."""
    whole = name == "expert_down_bias"
    table = {"experts": None if whole else "spread_experts", "width": None}
    return tuple(table.get(axis, axis) if axis else None for axis in layer_axes(name)[1:])


def expert_axes(name: str, spread: bool) -> Axes:
    """Of one layer's leaf; `spread` as in LayerParams."""
    return decoding_layer_axes(name) if spread else layer_axes(name)[1:]


@flax.struct.dataclass
class Params:
    embed: Leaf  # V D
    layers: LayerParams
    final_norm: Leaf  # D
    head: Leaf = None  # V D; None when tied to `embed`


def shapes(cfg: ModelConfig) -> Params:
    """Abstract parameters: a `ShapeDtypeStruct` per leaf."""
    experts = cfg.experts
    sizes = {
        "N": cfg.layers, "D": cfg.width, "H": cfg.kv_heads, "G": cfg.groups, "E": cfg.head_dim,
        "F": cfg.ffn if experts is None else experts.ffn, "X": experts.number if experts else 0,
        "V": cfg.vocab,
    }  # fmt: skip

    def leaf(letters: str) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct([sizes[axis] for axis in letters], jnp.dtype(cfg.dtype))

    own: dict[str, Leaf] = {name: leaf(LETTERS[name]) for name in leaves(cfg)}
    return Params(leaf("VD"), LayerParams(**own), leaf("D"), None if cfg.tied else leaf("VD"))


def logical_axes(cfg: ModelConfig) -> Params:
    """The logical axis names of every leaf; `parallel.sharding` maps them to mesh axes."""
    own: dict[str, Leaf] = {name: layer_axes(name) for name in leaves(cfg)}
    head = None if cfg.tied else ("vocab", "width")
    return Params(("vocab", "width"), LayerParams(**own), ("width",), head)


def decoding_axes(cfg: ModelConfig) -> LayerParams:
    """The logical axes of one layer of a model with experts while it decodes: nothing is gathered
    for a token, since every device has a share of the experts and the whole of all else."""
    own: dict[str, Leaf] = {name: decoding_layer_axes(name) for name in leaves(cfg)}
    return LayerParams(**own)


def head(params: Params, dtype: jnp.dtype) -> jax.Array:
    """The output head, V D, in the dtype of the final hidden states that it multiplies."""
    return (params.embed if params.head is None else params.head).astype(dtype)


def head_logits(hidden: jax.Array, head_VD: Float[Array, "V D"]) -> jax.Array:
    """Logits [..., V] of final hidden states [..., D], float32."""
    return jnp.einsum("...d,vd->...v", hidden, head_VD, preferred_element_type=jnp.float32)


def init(key: jax.Array, cfg: ModelConfig) -> Params:
    """Random parameters: norms multiply by 1, biases and sinks 0, matrices normal with std
    1/sqrt(width)."""
    abstract = shapes(cfg)
    flat, tree = jax.tree.flatten_with_path(abstract)
    keys = jax.random.split(key, len(flat))

    def make(path: tuple, leaf: jax.ShapeDtypeStruct, key: jax.Array) -> jax.Array:
        name = path[-1].name
        if name.endswith("norm"):
            return jnp.full(leaf.shape, 1 - cfg.norm_offset, leaf.dtype)
        if name.endswith(("bias", "sinks")):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jax.random.normal(key, leaf.shape, leaf.dtype) * cfg.width**-0.5

    made = [make(p, x, k) for (p, x), k in zip(flat, keys, strict=True)]
    return jax.tree.unflatten(tree, made)
