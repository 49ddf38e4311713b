"""The one entry point; it chooses the implementation."""

from typing import Literal

from jaxtyping import Array, Float, Int

from kernels.linear_logprob import reference, xla
from kernels.linear_logprob.reference import LogProbs
from pivotrl_jax.errors import UserError

Implementation = Literal["auto", "xla", "reference"]


def linear_logprob(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    *,
    temperature: float = 1.0,
    block: int = 4096,
    implementation: Implementation = "auto",
) -> LogProbs:
    """Log-probability, log-sum-exp and entropy of softmax(hidden @ head.T / temperature), float32.

    Operands are bfloat16 or float32, sums are float32; labels lie in [0, V). Differentiable in
    `hidden_TD` and `head_VD` through all three results. `temperature` and `block` (vocabulary rows
    at a time) are Python numbers; T and V may be any size. Raises UserError for an unknown
    `implementation`.
    """
    if implementation == "reference":
        return reference.linear_logprob(hidden_TD, head_VD, labels_T, temperature)
    if implementation in ("auto", "xla"):
        return xla.linear_logprob(hidden_TD, head_VD, labels_T, temperature, block)
    raise UserError(
        f"linear_logprob: no implementation {implementation!r}; use 'auto', 'xla' or 'reference'."
    )
