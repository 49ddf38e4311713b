"""The one entry point; it chooses the implementation."""

from jaxtyping import Array, Float, Int

from kernels.backend import Implementation, choose, device
from kernels.tree_attention import pallas, reference, xla
from kernels.tree_attention.blocks import blocks_for
from pivotrl_jax.parallel.sharding import parts
from pivotrl_jax.trees import TokenTree


def tree_attention(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    window: Int[Array, ""] | None = None,
    sinks_HG: Float[Array, "H G"] | None = None,
    *,
    implementation: Implementation = "auto",
    interpret: bool = False,
) -> Float[Array, "R T H G E"]:
    """Softmax attention of every token to what it sees in its tree, scaled by 1/sqrt(E).

    With a `window`, one positive number that may differ from layer to layer of one compiled body, a
    token sees itself and what lies at the `window - 1` positions before it, on its trunk or on its
    own branch. What no token of a block sees is not visited, so that long rows cost less. A sink is
    one more score in each softmax of its head, to which no value belongs (gpt-oss).

    Operands are bfloat16 or float32; scores and sums are float32. Differentiable in q, k, v and
    sinks. "auto" is "pallas" on TPU and "xla" elsewhere, GPUs included: the kernels sum over blocks
    in order, which a GPU's grid does not keep. `interpret` runs them on any backend, slowly, for
    tests. Raises UserError for an `implementation` that is unknown or cannot run here.
    """
    chosen = choose("tree_attention", implementation, interpret)
    if chosen == "reference":
        return reference.tree_attention(q_RTHGE, k_RTHE, v_RTHE, tree, window, sinks_HG)
    _, length, _, groups, width = q_RTHGE.shape
    blocks = blocks_for(device()[1], groups, width, length, parts("places"))
    if chosen == "xla":
        return xla.tree_attention(q_RTHGE, k_RTHE, v_RTHE, tree, blocks, window, sinks_HG)
    return pallas.tree_attention(q_RTHGE, k_RTHE, v_RTHE, tree, blocks, window, sinks_HG, interpret)
