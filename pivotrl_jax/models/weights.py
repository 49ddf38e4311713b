"""Between the matrices of a weight file and the parameter tree.

Files hold one [out, in] matrix per layer, or per layer and expert, with heads flattened into rows,
ordered as H, G, E. So its slice of a leaf is always `matrix.T.reshape(...)`, whatever the leaf.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.blocks import Read, Tensors, bits, build
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.params import Params, shapes

# Leaf name -> tensor name in the file, with a "{}" for every axis along which the leaf is stacked:
# the layer, then the expert.
Names = Mapping[str, str]


def stack(cfg: ModelConfig, name: str) -> tuple[int, ...]:
    """What the placeholders of a tensor's name count up to: layers N, then experts X."""
    counts = (cfg.layers,)
    return counts[: name.count("{}")]


def file_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of one tensor of every leaf that `cfg` has."""
    d, f = cfg.width, cfg.ffn
    q, kv = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    found: dict[str, tuple[int, ...]] = {
        "embed": (cfg.vocab, d),
        "attn_norm": (d,),
        "q": (q, d),
        "k": (kv, d),
        "v": (kv, d),
        "o": (d, q),
        "ffn_norm": (d,),
        "gate": (f, d),
        "up": (f, d),
        "down": (d, f),
        "final_norm": (d,),
    }
    if cfg.qkv_bias:
        found |= {"q_bias": (q,), "k_bias": (kv,), "v_bias": (kv,)}
    if cfg.qk_norm:
        found |= {"q_norm": (cfg.head_dim,), "k_norm": (cfg.head_dim,)}
    return found if cfg.tied else found | {"head": (cfg.vocab, d)}


def tensor_shapes(cfg: ModelConfig, names: Names) -> dict[str, tuple[int, ...]]:
    """Every tensor that a file of this architecture holds, and its shape."""
    return {
        names[leaf].format(*index): shape
        for leaf, shape in file_shapes(cfg).items()
        for index in np.ndindex(stack(cfg, names[leaf]))
    }


def check_shapes(
    cfg: ModelConfig, names: Names, found: Mapping[str, tuple[int, ...]], where: Path
) -> None:
    """Raises UserError unless the file at `where` holds exactly the tensors of `cfg`.

    A tensor that the architecture does not use is an error too: ignoring a bias or a norm would
    give another model without a word.
    """
    expected = tensor_shapes(cfg, names)
    for name, shape in expected.items():
        if name not in found:
            raise UserError(
                f"{where} has no tensor {name} (expected shape {list(shape)}); "
                "download the file again or correct its configuration"
            )
        if tuple(found[name]) != shape:
            raise UserError(
                f"{where}: tensor {name} has shape {list(found[name])} but its configuration "
                f"asks for {list(shape)}; use the configuration these weights were saved with"
            )
    for name in found:
        if name not in expected:
            raise UserError(
                f"{where}: tensor {name} has no place in the architecture of its configuration; "
                "use weights of a plain Llama, Qwen2 or Qwen3 model"
            )


def assemble(cfg: ModelConfig, names: Names, read: Read, shardings: Params | None = None) -> Params:
    """Builds the tree in `cfg.dtype`, block by block; see `blocks.build` for what the host holds.

    `read` gives a part of a tensor in the layout of `file_shapes`. Leaves are born with
    `shardings`, or on the default device; only what this process's shards need is read.
    """
    abstract, tree = jax.tree.flatten_with_path(shapes(cfg))
    placed = [None] * len(abstract) if shardings is None else jax.tree.leaves(shardings)
    files = file_shapes(cfg)
    built = [
        build(Tensors(names[path[-1].name], files[path[-1].name], leaf), read, sharding)
        for (path, leaf), sharding in zip(abstract, placed, strict=True)
    ]
    return jax.tree.unflatten(tree, built)


def disassemble(params: Params, cfg: ModelConfig, names: Names) -> Iterator[tuple[str, np.ndarray]]:
    """The inverse of `assemble`: tensors in the order of `tensor_shapes`, dtype as in `params`.

    One tensor at a time comes to the host. Where `params` are spread over processes, every process
    has to ask for all of them, and gets them.
    """
    leaves = {path[-1].name: leaf for path, leaf in jax.tree.leaves_with_path(params)}
    for name, shape in file_shapes(cfg).items():
        leaf, counts = leaves[name], stack(cfg, names[name])
        order = Tensors(names[name], shape, leaf).order
        local = leaf.sharding.shard_shape(leaf.shape)
        parts = tuple(n // own for n, own in zip(counts, local, strict=False))
        for index in np.ndindex(counts):
            # No name for the tensor, so that it goes with its reader before the next one comes.
            yield names[name].format(*index), _on_host(_tensor(leaf, index, parts, shape, order))


@partial(jax.jit, static_argnames=("parts", "shape", "order"))
def _tensor(
    leaf: jax.Array,
    index: tuple[jax.Array, ...],
    parts: tuple[int, ...],
    shape: tuple[int, ...],
    order: tuple[int, ...],
) -> jax.Array:
    """One tensor as a file has it, of a leaf whose stacked axes lie on devices in `parts`."""
    found = bits(leaf)
    for i, n in zip(index, parts, strict=True):
        found = found[i] if n == 1 else _picked(found, i, n)
    turned = found.reshape([shape[axis] for axis in order]).transpose(order)
    # A copy, since NumPy's view of a leaf would stay with the leaf.
    return jnp.copy(jax.lax.bitcast_convert_type(turned, leaf.dtype))


def _picked(leaf: jax.Array, i: jax.Array, parts: int) -> jax.Array:
    """`leaf[i]` of an axis that lies on devices in `parts`, which XLA would gather as a whole.

    Every part offers one of its own, and all but the one that is meant are zeros of a sum. So they
    have to be integers: adding zero to a float can change its sign.
    """
    own = leaf.shape[0] // parts
    offered = leaf.reshape(parts, own, *leaf.shape[1:])[:, i % own]
    meant = (jnp.arange(parts) == i // own).reshape(-1, *[1] * (offered.ndim - 1))
    return jnp.where(meant, offered, 0).sum(axis=0, dtype=leaf.dtype)


def _on_host(tensor: jax.Array) -> np.ndarray:
    if tensor.is_fully_addressable:
        return np.asarray(tensor)
    return multihost_utils.process_allgather(tensor, tiled=True)
