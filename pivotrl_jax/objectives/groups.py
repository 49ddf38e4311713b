"""Statistics and advantages of a group: the K samples of one candidate."""

import functools
from typing import Literal, get_args

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pivotrl_jax.objectives.names import require

Normalisation = Literal["std", "mean", "leave_one_out"]


@flax.struct.dataclass
class GroupStats:
    """Of the valid samples of each candidate: reward mean, population variance, number."""

    mean_P: Float[Array, "P"]
    variance_P: Float[Array, "P"]
    count_P: Int[Array, "P"]


@jax.jit
def group_statistics(rewards_PK: Float[Array, "P K"], valid_PK: Bool[Array, "P K"]) -> GroupStats:
    """Mean and population variance of each group (paper eq. 4).

    A group of equal rewards has variance exactly 0, which eq. 5 relies on; so has an empty one,
    with mean 0.
    """
    return GroupStats(*jax.vmap(_moments)(rewards_PK, valid_PK))


def _moments(
    rewards_K: Float[Array, "K"], member_K: Bool[Array, "K"]
) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
    count = jnp.sum(member_K)
    total = jnp.sum(jnp.where(member_K, rewards_K, 0))
    mean = total / jnp.maximum(count, 1)
    squares = jnp.sum(jnp.where(member_K, jnp.square(rewards_K - mean), 0))
    # The mean of equal rewards may differ from them by rounding, and their variance from 0.
    lowest = jnp.min(jnp.where(member_K, rewards_K, jnp.inf))
    highest = jnp.max(jnp.where(member_K, rewards_K, -jnp.inf))
    variance = jnp.where(highest > lowest, squares / jnp.maximum(count, 1), 0)
    return mean, variance, count


@functools.partial(jax.jit, static_argnames=("normalisation", "epsilon", "min_valid"))
def advantages(
    rewards_PK: Float[Array, "P K"],
    valid_PK: Bool[Array, "P K"],
    *,
    normalisation: Normalisation,
    epsilon: float = 1e-6,
    min_valid: int = 2,
) -> Float[Array, "P K"]:
    """Advantages within each group (paper eq. 7).

    "std" is (r - mean) / (std + epsilon), as the paper has it; "mean" is r - mean (Dr. GRPO);
    "leave_one_out" takes mean and Bessel-corrected std of the other valid samples, and divides
    only where that std is positive (NeMo RL). Invalid samples, groups with fewer than `min_valid`
    valid ones and groups of equal rewards get exactly 0 (Proposition 3.1).
    """
    require("normalisation", normalisation, get_args(Normalisation))
    rule = {"std": _by_std, "mean": _by_mean, "leave_one_out": _leave_one_out}[normalisation]

    def group(rewards_K: Float[Array, "K"], valid_K: Bool[Array, "K"]) -> Float[Array, "K"]:
        _, variance, count = _moments(rewards_K, valid_K)
        counts_K = valid_K & (variance > 0) & (count >= min_valid)
        return jnp.where(counts_K, rule(rewards_K, valid_K, epsilon), 0)

    return jax.vmap(group)(rewards_PK, valid_PK)


def _by_std(
    rewards_K: Float[Array, "K"], valid_K: Bool[Array, "K"], epsilon: float
) -> Float[Array, "K"]:
    mean, variance, _ = _moments(rewards_K, valid_K)
    return (rewards_K - mean) / (jnp.sqrt(variance) + epsilon)


def _by_mean(
    rewards_K: Float[Array, "K"], valid_K: Bool[Array, "K"], epsilon: float
) -> Float[Array, "K"]:
    return rewards_K - _moments(rewards_K, valid_K)[0]


def _leave_one_out(
    rewards_K: Float[Array, "K"], valid_K: Bool[Array, "K"], epsilon: float
) -> Float[Array, "K"]:
    others_KK = valid_K & ~jnp.eye(valid_K.shape[0], dtype=bool)
    mean_K, variance_K, count_K = jax.vmap(_moments, in_axes=(None, 0))(rewards_K, others_KK)
    std_K = jnp.sqrt(variance_K * count_K / jnp.maximum(count_K - 1, 1))
    return (rewards_K - mean_K) / jnp.where(std_K > 0, std_K + epsilon, 1)


@functools.partial(jax.jit, static_argnames="penalty")
def override(
    advantages_PK: Float[Array, "P K"], malformed_PK: Bool[Array, "P K"], penalty: float | None
) -> Float[Array, "P K"]:
    """Overwrite the advantages of malformed actions with `penalty` (such as -5); None leaves them.

    It comes after normalisation, so it also acts in groups of equal rewards.
    """
    return advantages_PK if penalty is None else jnp.where(malformed_PK, penalty, advantages_PK)
