"""Between the matrices of a weight file and the parameter tree.

Files hold one [out, in] matrix per layer, or per layer and expert, with heads flattened into rows,
ordered as H, G, E. So its slice of a leaf is always `matrix.T.reshape(...)`, whatever the leaf.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.params import Params, shapes

# Leaf name -> tensor name in the file, with a "{}" for every axis along which the leaf is stacked:
# the layer, then the expert.
Names = Mapping[str, str]


def stack(cfg: ModelConfig, name: str) -> tuple[int, ...]:
    """What the placeholders of a tensor's name count up to: layers N, then experts X."""
    counts = (cfg.layers,) if cfg.experts is None else (cfg.layers, cfg.experts.number)
    return counts[: name.count("{}")]


def file_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of one tensor of every leaf that `cfg` has."""
    d = cfg.width
    q, kv = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    found: dict[str, tuple[int, ...]] = {
        "embed": (cfg.vocab, d),
        "attn_norm": (d,),
        "q": (q, d),
        "k": (kv, d),
        "v": (kv, d),
        "o": (d, q),
        "ffn_norm": (d,),
        **_ffn_shapes(cfg),
        "final_norm": (d,),
    }
    if cfg.qkv_bias:
        found |= {"q_bias": (q,), "k_bias": (kv,), "v_bias": (kv,)}
    if cfg.qk_norm:
        found |= {"q_norm": (cfg.head_dim,), "k_norm": (cfg.head_dim,)}
    return found if cfg.tied else found | {"head": (cfg.vocab, d)}


def _ffn_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    d, f = cfg.width, cfg.ffn
    if cfg.experts is None:
        return {"gate": (f, d), "up": (f, d), "down": (d, f)}
    x, f = cfg.experts.number, cfg.experts.ffn
    return {"router": (x, d), "expert_gate": (f, d), "expert_up": (f, d), "expert_down": (d, f)}


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


def assemble(
    cfg: ModelConfig,
    names: Names,
    read: Callable[[str], np.ndarray],
    shardings: Params | None = None,
) -> Params:
    """Builds the tree in `cfg.dtype`, holding one stacked leaf at a time in host memory.

    `read` gives a tensor in the layout of `file_shapes`. Leaves are born with `shardings`, or on
    the default device.
    """
    abstract, tree = jax.tree.flatten_with_path(shapes(cfg))
    placed = [None] * len(abstract) if shardings is None else jax.tree.leaves(shardings)

    def build(path: tuple, leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding | None):
        name = names[path[-1].name]
        if "{}" not in name:
            return _place(read(name).astype(leaf.dtype), sharding)
        host = np.empty(leaf.shape, leaf.dtype)
        counts = stack(cfg, name)
        for index in np.ndindex(counts):
            host[index] = read(name.format(*index)).T.reshape(leaf.shape[len(counts) :])
        return _place(host, sharding)

    built = [build(path, leaf, s) for (path, leaf), s in zip(abstract, placed, strict=True)]
    return jax.tree.unflatten(tree, built)


def _place(host: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    if sharding is None:
        return jax.device_put(host)
    return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)


def disassemble(params: Params, cfg: ModelConfig, names: Names) -> Iterator[tuple[str, np.ndarray]]:
    """The inverse of `assemble`: tensors in the order of `tensor_shapes`, dtype as in `params`."""
    leaves = {path[-1].name: leaf for path, leaf in jax.tree.leaves_with_path(params)}
    for leaf, shape in file_shapes(cfg).items():
        host = jax.device_get(leaves[leaf])
        if "{}" not in names[leaf]:
            yield names[leaf], host
            continue
        for index in np.ndindex(stack(cfg, names[leaf])):
            matrix = host[index].reshape(shape[::-1]).T
            yield names[leaf].format(*index), np.ascontiguousarray(matrix)
