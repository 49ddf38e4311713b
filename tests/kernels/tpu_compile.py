"""Compiles kernels for TPUs on a machine without one, with the compiler in `libtpu`.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m tests.kernels.tpu_compile v5e:2x4/OP ...

Prints one JSON object per topology/op: the op and the megabytes of temporary memory that XLA plans
for one chip. Runs in a process of its own because `libtpu` claims its process.
"""

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from kernels.grouped_dot import grouped_dot
from kernels.grpo import AdvantageSettings, Groups, ScoredTokens
from kernels.grpo import fused as grpo
from kernels.linear_logprob import LogProbs, blocks, fused
from kernels.linear_logprob.pallas import Target
from kernels.tree_attention import blocks as tree_blocks
from kernels.tree_attention import pallas as tree_attention
from kernels.tree_decode import pallas as tree_decode
from kernels.tree_decode.blocks import keys_per_block
from pivotrl_jax.objectives import PolicySettings
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.trees import TokenTree

# A function and its abstract arguments.
Case = tuple[Callable[..., Any], tuple[Any, ...]]

# Qwen3-4B's head and 4,096 scored tokens.
TOKENS, WIDTH, VOCAB = 4096, 2560, 151_936


def on(device: jax.Device, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    mesh = make_mesh(MeshSettings(), [device])
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec()))


def linear_logprob(device: jax.Device) -> Case:
    target = Target("tpu", blocks.choose(device.device_kind, 2 * WIDTH))
    function = functools.partial(fused.linear_logprob, settings=fused.Settings(target=target))
    return function, (
        on(device, (TOKENS, WIDTH), jnp.bfloat16),
        on(device, (VOCAB, WIDTH), jnp.bfloat16),
        on(device, (TOKENS,), jnp.int32),
    )


def linear_logprob_gradient(device: jax.Device) -> Case:
    function, arguments = linear_logprob(device)

    def loss(*operands: jax.Array) -> jax.Array:
        return sum(x.sum() for x in function(*operands))

    return jax.grad(loss, argnums=(0, 1)), arguments


def tree_attention_gradient(device: jax.Device) -> Case:
    """Forward and backward of one row of 4,096 tokens, 16 query heads on 8 key heads, under a
    window that is known only when it runs."""
    rows, tokens, heads, groups, width = 1, 4096, 8, 2, 128
    chosen = tree_blocks.blocks_for(device.device_kind, groups, width, tokens)

    def gradient(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        d_out: jax.Array,
        tree: TokenTree,
        window: jax.Array,
    ) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(
            lambda q, k, v: tree_attention.tree_attention(q, k, v, tree, chosen, window), q, k, v
        )
        return out, *pull(d_out)

    queries, keys = (
        on(device, shape, jnp.bfloat16)
        for shape in ((rows, tokens, heads, groups, width), (rows, tokens, heads, width))
    )
    number = on(device, (rows, tokens), jnp.int32)
    tree = TokenTree(*[number] * 6)
    return gradient, (queries, keys, keys, queries, tree, on(device, (), jnp.int32))


def grpo_gradient(device: jax.Device) -> Case:
    """4,096 scored tokens of eight rows, each with two groups of eight samples."""
    rows, groups, samples, length = 8, 2, 8, TOKENS // 8
    target = Target("tpu", blocks.choose(device.device_kind, 2 * WIDTH))
    settings = fused.Settings(target=target)

    def score(hidden_RAD: jax.Array, head_VD: jax.Array, labels_RA: jax.Array) -> LogProbs:
        flat = fused.linear_logprob(
            hidden_RAD.reshape(-1, WIDTH), head_VD, labels_RA.reshape(-1), settings
        )
        return jax.tree.map(lambda x: x.reshape(labels_RA.shape), flat)

    def loss(
        hidden_RAD: jax.Array, head_VD: jax.Array, tokens: ScoredTokens, own: Groups
    ) -> jax.Array:
        return grpo.grpo(
            hidden_RAD, head_VD, tokens, own, jnp.float32(TOKENS),
            PolicySettings(), AdvantageSettings(), score,
        )[0]  # fmt: skip

    number = functools.partial(on, device, (rows, length))
    of_sample = functools.partial(on, device, (rows, groups, samples))
    tokens = ScoredTokens(*map(number, (jnp.int32, jnp.float32, jnp.int32, jnp.float32)), None)
    return jax.grad(loss, argnums=(0, 1)), (
        on(device, (rows, length, WIDTH), jnp.bfloat16),
        on(device, (VOCAB, WIDTH), jnp.bfloat16),
        tokens,
        Groups(of_sample(jnp.float32), of_sample(jnp.bool_), of_sample(jnp.bool_)),
    )


def decode(device: jax.Device) -> Case:
    """Four trunks of 4,096 tokens, each with 16 slots of 256."""
    rows, slots, heads, groups, width, length, size = 4, 16, 8, 2, 128, 4096, 256
    keys = keys_per_block(device.device_kind, slots * groups)
    trunk_k = on(device, (rows, heads, width, length), jnp.bfloat16)
    trunk_v = on(device, (rows, heads, length, width), jnp.bfloat16)
    own_k = on(device, (rows, slots, heads, width, size), jnp.bfloat16)
    own_v = on(device, (rows, slots, heads, size, width), jnp.bfloat16)
    number = on(device, (rows, slots), jnp.int32)
    q = on(device, (rows, slots, heads, groups, width), jnp.bfloat16)
    operands = (q, trunk_k, trunk_v, own_k, own_v, number, number, number)
    return functools.partial(tree_decode.tree_decode, keys=keys), operands


def grouped_dot_gradient(device: jax.Device) -> Case:
    """4,096 tokens through eight of a device's sixteen experts of Qwen3-30B-A3B each."""
    pairs, experts, width, ffn = 8 * 4096, 16, 2048, 768

    def gradient(
        x: jax.Array, w: jax.Array, sizes: jax.Array, d: jax.Array
    ) -> tuple[jax.Array, ...]:
        out, pull = jax.vjp(lambda x, w: grouped_dot(x, w, sizes), x, w)
        return out, *pull(d)

    x, d = (on(device, (pairs, n), jnp.bfloat16) for n in (width, ffn))
    w, sizes = on(device, (experts, width, ffn), jnp.bfloat16), on(device, (experts,), jnp.int32)
    return gradient, (x, w, sizes, d)


def grouped_dot_of_few(device: jax.Device) -> Case:
    """16 rows, no tile's worth: what a device decodes at a time when it has few slots."""
    x, sizes = on(device, (16, 2048), jnp.bfloat16), on(device, (16,), jnp.int32)
    return grouped_dot, (x, on(device, (16, 2048, 768), jnp.bfloat16), sizes)


OPS: dict[str, Callable[[jax.Device], Case]] = {
    "linear_logprob": linear_logprob,
    "linear_logprob_gradient": linear_logprob_gradient,
    "grpo_gradient": grpo_gradient,
    "tree_attention_gradient": tree_attention_gradient,
    "tree_decode": decode,
    "grouped_dot_gradient": grouped_dot_gradient,
    "grouped_dot_of_few": grouped_dot_of_few,
}


def temporary_mib(topology: str, op: str) -> float:
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    function, arguments = OPS[op](device)
    with jax.set_mesh(make_mesh(MeshSettings(), [device])):
        memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes / 2**20


if __name__ == "__main__":
    for job in sys.argv[1:]:
        topology, op = job.split("/")
        print(json.dumps({"op": op, "temp_mib": temporary_mib(topology, op)}), flush=True)
