"""Sums over a part of the vocabulary, and how parts make a whole."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kernels.linear_logprob.reference import LogProbs

# The logit of a row that does not count. Finite, because (-inf) - (-inf) and 0 * inf are NaN.
NEGATIVE = -1e30


class Partials(NamedTuple):
    """What a part of the vocabulary adds to every token's result, float32, with z the logits."""

    top: Float[Array, "... T"]  # the largest z
    total: Float[Array, "... T"]  # sum of exp(z - top)
    moment: Float[Array, "... T"]  # sum of exp(z - top) (z - top)
    label: Float[Array, "... T"]  # the label's z, 0 where the label is in another part


def of_block(z: Float[Array, "..."], hit: Bool[Array, "..."], axis: int) -> Partials:
    """Partials of logits whose vocabulary lies along `axis`; `hit` marks the labels."""
    top = z.max(axis)
    shifted = z - jnp.expand_dims(top, axis)
    exp = jnp.exp(shifted)
    label = jnp.where(hit, z, 0).sum(axis)
    return Partials(top, exp.sum(axis), (exp * shifted).sum(axis), label)


def combine(
    parts: Partials, largest: Callable[[Array], Array], add: Callable[[Array], Array]
) -> Partials:
    """Joins parts, which `largest` and `add` reduce: along an axis, or over devices."""
    top = largest(parts.top)
    shift = parts.top - top
    weight = jnp.exp(shift)
    return Partials(
        top,
        add(weight * parts.total),
        add(weight * (parts.moment + shift * parts.total)),
        add(parts.label),
    )


def stacked(parts: Partials) -> Partials:
    """Joins parts that lie along the leading axis."""
    return combine(parts, lambda x: jnp.max(x, axis=0), lambda x: jnp.sum(x, axis=0))


def merge(a: Partials, b: Partials) -> Partials:
    return stacked(jax.tree.map(lambda x, y: jnp.stack((x, y)), a, b))


def finish(whole: Partials) -> LogProbs:
    log_total = jnp.log(whole.total)
    lse_T = whole.top + log_total
    return LogProbs(whole.label - lse_T, lse_T, log_total - whole.moment / whole.total)
