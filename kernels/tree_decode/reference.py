"""The dense form: what the other implementations are tested against."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kernels.tree_attention.reference import MASKED, softmax


def tree_decode(
    q_RBHGE: Float[Array, "R B H G E"],
    trunk_k_RHEL: Float[Array, "R H E L"],
    trunk_v_RHLE: Float[Array, "R H L E"],
    own_k_RBHES: Float[Array, "R B H E S"],
    own_v_RBHSE: Float[Array, "R B H S E"],
    start_RB: Int[Array, "R B"],
    step_RB: Int[Array, "R B"],
    first_RB: Int[Array, "R B"],
    sinks_HG: Float[Array, "H G"] | None = None,
) -> Float[Array, "R B H G E"]:
    """Repeats the trunk for every slot, appends the slot's own tokens and takes one softmax.

    Of the slot's sequence, `trunk[:start]` and its own tokens up to `step`, it sees the tokens from
    number `first` on.
    """

    def sequence(trunk: Float[Array, "R H L E"], own: Float[Array, "R B H S E"]) -> jax.Array:
        shape = (*own.shape[:3], *trunk.shape[2:])
        return jnp.concatenate([jnp.broadcast_to(trunk[:, None], shape), own], axis=3)

    k = sequence(trunk_k_RHEL.swapaxes(2, 3), own_k_RBHES.swapaxes(3, 4))
    v = sequence(trunk_v_RHLE, own_v_RBHSE)
    start, step, first = start_RB[..., None], step_RB[..., None], first_RB[..., None]
    place_L, own_S = jnp.arange(trunk_v_RHLE.shape[2]), jnp.arange(own_v_RBHSE.shape[3])
    before = (place_L < start) & (place_L >= first)
    so_far = (own_S <= step) & (start + own_S >= first)
    mask_RBT = jnp.concatenate([before, so_far], axis=-1)
    scores = jnp.einsum("rbhge,rbhte->rbhgt", q_RBHGE, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask_RBT[:, :, None, None], scores * q_RBHGE.shape[-1] ** -0.5, MASKED)
    probs = softmax(scores, sinks_HG).astype(v.dtype)
    return jnp.einsum("rbhgt,rbhte->rbhge", probs, v)
