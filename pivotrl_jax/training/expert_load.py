"""How evenly a model uses its experts, from what the forward pass of an update counts."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def load_metrics(load_MNX: Int[Array, "M N X"] | None) -> dict[str, Any]:
    """How evenly a model's experts are used, a mean over layers; nothing without experts.

    `experts/load_max` is the busiest expert's share over the mean share: from 1, all alike, to X.
    `experts/load_entropy` is that of the shares, in nats, at most log X.
    """
    if load_MNX is None:
        return {}
    load_NX = load_MNX.sum(axis=0)
    share_NX = load_NX / jnp.maximum(load_NX.sum(axis=1, keepdims=True), 1)
    entropy_N = jax.scipy.special.entr(share_NX).sum(axis=1)
    return {
        "experts/load_max": load_NX.shape[1] * share_NX.max(axis=1).mean(),
        "experts/load_entropy": entropy_N.mean(),
    }
