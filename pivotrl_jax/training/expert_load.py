"""How a model uses its experts, from what the forward pass of an update counts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pivotrl_jax.models.experts import UNKNOWN


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


def count_changes(
    changed_NRT: Bool[Array, "N R T"] | None,
    routes_RTNJ: Int[Array, "R T N J"] | None,
    index_RA: Int[Array, "R A"],
    weight_RA: Float[Array, "R A"],
) -> Float[Array, "2"] | None:
    """Pairs of a layer and a scored token with recorded routes: those that changed, and all.

    None where no routes are replayed.
    """
    if changed_NRT is None or routes_RTNJ is None:
        return None
    at_scored = partial(jnp.take_along_axis, indices=index_RA, axis=1)
    weight_RA = weight_RA * at_scored(routes_RTNJ[:, :, 0, 0] != UNKNOWN)
    changed = jnp.sum(weight_RA * at_scored(changed_NRT.sum(axis=0)))
    return jnp.stack([changed, len(changed_NRT) * weight_RA.sum()])


def change_metrics(counts_M2: Float[Array, "M 2"] | None) -> dict[str, Any]:
    """`experts/changed_routes`, the share of `count_changes`; nothing where none are replayed."""
    if counts_M2 is None:
        return {}
    changed, pairs = counts_M2.sum(axis=0)
    return {"experts/changed_routes": changed / jnp.maximum(pairs, 1)}
