"""One op from hidden states and rewards to the loss, with one backward pass.

The objective needs nothing but the log-prob of every token, so its derivative g with respect to
those is known in the forward pass already; the backward pass hands g to the head's gradient. Tokens
that cannot matter are skipped in both: padding going forward, and coming back also tokens whose g
is zero (groups of equal rewards without a KL term, clipped tokens). Tokens that matter move to the
front of their row, and the head is applied to as few quarters of the row as hold them all.
"""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kernels.grpo.reference import (
    AdvantageSettings,
    Groups,
    GrpoStats,
    ScoredTokens,
    objective,
)
from kernels.linear_logprob import LogProbs
from pivotrl_jax.objectives import PolicySettings

PARTS = 4
Result = TypeVar("Result")
# Log-probs of [R, A, D] hidden states and [R, A] labels, over the head.
Score = Callable[[Array, Array, Array], LogProbs]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def grpo(
    hidden_RAD: Float[Array, "R A D"],
    head_VD: Float[Array, "V D"],
    tokens: ScoredTokens,
    groups: Groups,
    normaliser: Float[Array, ""],
    policy: PolicySettings,
    advantage: AdvantageSettings,
    score: Score,
) -> tuple[Float[Array, ""], GrpoStats]:
    """As `reference.grpo`; `score` gives the log-probs, tempered as the samples were."""
    return _forward(hidden_RAD, head_VD, tokens, groups, normaliser, policy, advantage, score)[0]


def _forward(
    hidden_RAD: Float[Array, "R A D"],
    head_VD: Float[Array, "V D"],
    tokens: ScoredTokens,
    groups: Groups,
    normaliser: Float[Array, ""],
    policy: PolicySettings,
    advantage: AdvantageSettings,
    score: Score,
) -> tuple[tuple[Float[Array, ""], GrpoStats], tuple]:
    order_RA, count = _front(tokens.weight_RA > 0)
    hidden, labels_RA = _gather(hidden_RAD, order_RA), _gather(tokens.labels_RA, order_RA)

    def scored(size: int) -> tuple[Array, Array]:
        found = score(hidden[:, :size], head_VD, labels_RA[:, :size])
        return _fill(found.logp_T, labels_RA.shape), _fill(found.entropy_T, labels_RA.shape)

    logp_RA, entropy_RA = (
        _scatter(x, order_RA) for x in _by_size(scored, labels_RA.shape[1], count)
    )
    (loss, stats), slope_RA = jax.value_and_grad(objective, has_aux=True)(
        logp_RA, tokens, groups, normaliser, policy, advantage
    )
    out = loss, GrpoStats(stats, jnp.sum(entropy_RA * tokens.weight_RA))
    return out, (hidden_RAD, head_VD, tokens.labels_RA, slope_RA)


def _backward(
    policy: PolicySettings,
    advantage: AdvantageSettings,
    score: Score,
    residuals: tuple,
    cotangents: tuple[Float[Array, ""], GrpoStats],
) -> tuple[Array, Array, None, None, None]:
    """The head's forward pass is done again: it is a small part, and keeps nothing in between."""
    hidden_RAD, head_VD, labels_RA, slope_RA = residuals
    slope_RA = slope_RA * cotangents[0]
    order_RA, count = _front(slope_RA != 0)
    hidden, labels_RA = _gather(hidden_RAD, order_RA), _gather(labels_RA, order_RA)
    slope_RA = _gather(slope_RA, order_RA)

    def pulled(size: int) -> tuple[Array, Array]:
        def logp(hidden: Array, head_VD: Array) -> Array:
            return score(hidden, head_VD, labels_RA[:, :size]).logp_T

        d_hidden, d_head_VD = jax.vjp(logp, hidden[:, :size], head_VD)[1](slope_RA[:, :size])
        return _fill(d_hidden, hidden.shape), d_head_VD

    d_hidden, d_head_VD = _by_size(pulled, labels_RA.shape[1], count)
    return _scatter(d_hidden, order_RA), d_head_VD, None, None, None


grpo.defvjp(_forward, _backward)


def _front(matters_RA: Bool[Array, "R A"]) -> tuple[Array, Array]:
    """The order that puts tokens that matter first in their row, and the longest row's number."""
    return jnp.argsort(~matters_RA, axis=1, stable=True), jnp.max(jnp.sum(matters_RA, axis=1))


def _gather(x: Array, order_RA: Array) -> Array:
    return jnp.take_along_axis(x, order_RA.reshape(order_RA.shape + (1,) * (x.ndim - 2)), axis=1)


def _scatter(x: Array, order_RA: Array) -> Array:
    """Undoes `_gather`."""
    return _gather(x, jnp.argsort(order_RA, axis=1))


def _fill(x: Array, shape: tuple[int, ...]) -> Array:
    """Zeros for the tokens that were left out."""
    return jnp.pad(x, [(0, n - m) for n, m in zip(shape, x.shape, strict=True)])


def _by_size(run: Callable[[int], Result], length: int, count: Array) -> Result:
    """`run` on the smallest of PARTS static sizes that holds `count` tokens."""
    sizes = sorted({-(-length * part // PARTS) for part in range(1, PARTS + 1)})
    which = jnp.searchsorted(jnp.asarray(sizes), count)
    return jax.lax.switch(which, [functools.partial(run, size) for size in sizes])
