"""The one entry point; it chooses the implementation."""

from typing import Literal

from jaxtyping import Array, Float

from kernels.tree_attention import reference, xla
from pivotrl_jax.errors import UserError
from pivotrl_jax.trees import TokenTree

Implementation = Literal["auto", "xla", "reference"]


def tree_attention(
    q_RTHGE: Float[Array, "R T H G E"],
    k_RTHE: Float[Array, "R T H E"],
    v_RTHE: Float[Array, "R T H E"],
    tree: TokenTree,
    *,
    implementation: Implementation = "auto",
) -> Float[Array, "R T H G E"]:
    """Softmax attention of every token to what it sees in its tree, scaled by 1/sqrt(E).

    Operands are bfloat16 or float32; scores and sums are float32. Differentiable in q, k and v.
    Raises UserError for an unknown `implementation`.
    """
    if implementation == "reference":
        return reference.tree_attention(q_RTHGE, k_RTHE, v_RTHE, tree)
    if implementation in ("auto", "xla"):
        return xla.tree_attention(q_RTHGE, k_RTHE, v_RTHE, tree)
    raise UserError(
        f"tree_attention: no implementation {implementation!r}; use 'auto', 'xla' or 'reference'."
    )
