"""Between the matrices of a weight file and the parameter tree.

Files hold one [out, in] matrix per layer, or per layer and expert, with heads flattened into rows,
ordered as H, G, E. So its slice of a leaf is always `matrix.T.reshape(...)`, whatever the leaf.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.blocks import Read, Tensors, build, take
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.lora import dense, is_low_rank
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
    if cfg.o_bias:
        found |= {"o_bias": (d,)}
    if cfg.sinks:
        found |= {"sinks": (cfg.heads,)}
    if cfg.qk_norm:
        found |= {"q_norm": (cfg.head_dim,), "k_norm": (cfg.head_dim,)}
    if cfg.post_norms:
        found |= {"attn_post_norm": (d,), "ffn_post_norm": (d,)}
    return found if cfg.tied else found | {"head": (cfg.vocab, d)}


def _ffn_shapes(cfg: ModelConfig) -> dict[str, tuple[int, ...]]:
    d, f = cfg.width, cfg.ffn
    if cfg.experts is None:
        return {"gate": (f, d), "up": (f, d), "down": (d, f)}
    x, f = cfg.experts.number, cfg.experts.ffn
    found: dict[str, tuple[int, ...]] = {
        "router": (x, d), "expert_gate": (f, d), "expert_up": (f, d), "expert_down": (d, f),
    }  # fmt: skip
    if cfg.experts.bias:
        found |= {
            "router_bias": (x,), "expert_gate_bias": (f,), "expert_up_bias": (f,),
            "expert_down_bias": (d,),
        }  # fmt: skip
    return found


def tensor_shapes(cfg: ModelConfig, names: Names) -> dict[str, tuple[int, ...]]:
    """Every tensor that a file of this architecture holds, and its shape."""
    return {
        names[leaf].format(*index): shape
        for leaf, shape in file_shapes(cfg).items()
        for index in np.ndindex(stack(cfg, names[leaf]))
    }


def check_shapes(
    cfg: ModelConfig,
    names: Names,
    found: Mapping[str, tuple[int, ...]],
    where: Path,
    file_of: Callable[[str], str] = str,
) -> None:
    """Raises UserError unless the file at `where` holds exactly the tensors of `cfg`, some of which
    may be parts of what is one there (`file_of`).

    A tensor that the architecture does not use is an error too: ignoring a bias or a norm would
    give another model without a word.
    """
    expected = tensor_shapes(cfg, names)
    for name, shape in expected.items():
        if name not in found:
            there = file_of(name)
            said = name if there == name else f"{there} that holds {name}"
            raise UserError(
                f"{where} has no tensor {said} (expected shape {list(shape)}); "
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
                "use weights of a plain Llama, Qwen2, Qwen3, Gemma 3 or gpt-oss model"
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


def disassemble(
    params: Params, cfg: ModelConfig, names: Names, order: Iterable[str] | None = None
) -> Iterator[np.ndarray]:
    """The inverse of `assemble`: tensors in `order`, by default that of `tensor_shapes`, dtype as
    in `params`.

    One tensor at a time comes to the host; adapters are merged on the devices, leaf by leaf. Where
    `params` are spread over processes, every process has to ask for all of them, and gets them.
    """
    named = jax.tree.leaves_with_path(params, is_leaf=is_low_rank)
    leaves = {path[-1].name: leaf for path, leaf in named}
    shapes = file_shapes(cfg)
    places = {
        names[leaf].format(*index): (leaf, index)
        for leaf in shapes
        for index in np.ndindex(stack(cfg, names[leaf]))
    }

    @functools.lru_cache(maxsize=1)
    def tensors(leaf: str) -> Tensors:
        return Tensors(names[leaf], shapes[leaf], dense(leaves[leaf]))

    for name in places if order is None else order:
        leaf, index = places[name]
        # No name for the array, so that it goes with its reader before the next one comes.
        yield _on_host(take(tensors(leaf), index))


def _on_host(tensor: jax.Array) -> np.ndarray:
    if tensor.is_fully_addressable:
        return np.asarray(tensor)
    return multihost_utils.process_allgather(tensor, tiled=True)
