"""The differentiable op: partials of either form forward, the loop over the vocabulary backward."""

import dataclasses
import functools

import jax
from jaxtyping import Array, Float, Int

from kernels.linear_logprob import pallas, xla
from kernels.linear_logprob.partials import Partials, finish
from kernels.linear_logprob.reference import LogProbs


@dataclasses.dataclass(frozen=True)
class Settings:
    """The static side of a call; without a `target` the forward pass is XLA's too."""

    temperature: float = 1.0
    soft_cap: float | None = None
    block: int = 4096  # vocabulary rows at a time of the loops in XLA
    target: pallas.Target | None = None


def partials(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    settings: Settings,
) -> Partials:
    operands = (hidden_TD, head_VD, labels_T, settings.temperature, settings.soft_cap)
    if settings.target is None:
        return xla.partials(*operands, settings.block)
    return pallas.partials(*operands, settings.target)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear_logprob(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    settings: Settings,
) -> LogProbs:
    """As `reference.linear_logprob`, without the [T, V] logits."""
    return finish(partials(hidden_TD, head_VD, labels_T, settings))


def _forward(
    hidden_TD: Float[Array, "T D"],
    head_VD: Float[Array, "V D"],
    labels_T: Int[Array, "T"],
    settings: Settings,
) -> tuple[LogProbs, xla.Residuals]:
    out = linear_logprob(hidden_TD, head_VD, labels_T, settings)
    return out, (hidden_TD, head_VD, labels_T, out.lse_T, out.entropy_T)


def _backward(
    settings: Settings, residuals: xla.Residuals, cotangents: LogProbs
) -> tuple[Float[Array, "T D"], Float[Array, "V D"], None]:
    d_hidden_TD, d_head_VD = xla.gradients(
        residuals, cotangents, settings.temperature, settings.soft_cap, settings.block
    )
    return d_hidden_TD.astype(residuals[0].dtype), d_head_VD, None


linear_logprob.defvjp(_forward, _backward)
