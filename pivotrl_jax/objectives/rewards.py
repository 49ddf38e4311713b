"""From a verdict's criteria to a reward (paper eq. 6)."""

from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives.names import require
from pivotrl_jax.parallel import put_whole
from pivotrl_jax.verifiers.recipe import Conditions, Recipe


@flax.struct.dataclass
class RecipeArrays:
    """A recipe as arrays over criteria C: those of its verifier, perhaps among others.

    A threshold of -inf always holds, one of +inf never; reward if accepted is
    `constant + criteria @ graded_C`.
    """

    accept_C: Float[Array, "C"]
    alternatively_C: Float[Array, "C"]
    graded_C: Float[Array, "C"]
    constant: Float[Array, ""]


def compile_recipe(recipe: Recipe, criteria_names: Sequence[str]) -> RecipeArrays:
    """Arrange `recipe` along `criteria_names`, in their order.

    Raises UserError for a criterion that is not among them (naming the nearest one), for a recipe
    that accepts everything, and for weights that are no weights of their own.
    """
    if recipe.weights and recipe.graded is not None:
        raise UserError(f"recipe {recipe.name!r} has both 'graded' and 'weights'; leave one out.")
    if not all(0 < weight < np.inf for _, weight in recipe.weights):
        raise UserError(f"recipe {recipe.name!r} has a weight that is not positive; leave it out.")
    if not recipe.accept and (recipe.alternatively or not recipe.shares):
        raise UserError(
            f"recipe {recipe.name!r} accepts every action; name at least one criterion in 'accept'."
        )
    alternatively_C = np.full(len(criteria_names), np.inf)
    if recipe.alternatively:
        alternatively_C = _thresholds(recipe.name, recipe.alternatively, criteria_names)
    graded_C = np.zeros(len(criteria_names))
    for criterion, share in recipe.shares:
        graded_C[_index(recipe.name, criterion, criteria_names)] += share
    return RecipeArrays(
        accept_C=_device(_thresholds(recipe.name, recipe.accept, criteria_names)),
        alternatively_C=_device(alternatively_C),
        graded_C=_device(graded_C),
        constant=_device(0.0 if recipe.shares else 1.0),
    )


def _device(values: ArrayLike) -> Array:
    # Said aloud: training forbids transfers that nobody asked for.
    return put_whole(np.asarray(values, np.float32))


def _thresholds(recipe: str, conditions: Conditions, names: Sequence[str]) -> np.ndarray:
    thresholds_C = np.full(len(names), -np.inf)
    for criterion, threshold in conditions:
        thresholds_C[_index(recipe, criterion, names)] = threshold
    return thresholds_C


def _index(recipe: str, criterion: str, names: Sequence[str]) -> int:
    require(f"recipe {recipe!r}", criterion, names)
    return list(names).index(criterion)


@jax.jit
def rewards(
    criteria_PKC: Float[Array, "P K C"], valid_PK: Bool[Array, "P K"], recipe: RecipeArrays
) -> Float[Array, "P K"]:
    """r_func(s, a) of every sample (paper eq. 6); 0 where not valid, whatever the criteria are."""
    over_samples = jax.vmap(_reward, in_axes=(0, 0, None))
    return jax.vmap(over_samples, in_axes=(0, 0, None))(criteria_PKC, valid_PK, recipe)


@jax.jit
def rewards_by_recipe(
    criteria_PKC: Float[Array, "P K C"],
    valid_PK: Bool[Array, "P K"],
    recipe_P: Int[Array, "P"],
    recipes: Sequence[RecipeArrays],
) -> Float[Array, "P K"]:
    """`rewards` where the samples of turn p earn what recipe number `recipe_P[p]` gives."""
    each_RPK = jnp.stack([rewards(criteria_PKC, valid_PK, recipe) for recipe in recipes])
    return jnp.take_along_axis(each_RPK, recipe_P[None, :, None], axis=0)[0]


def _reward(
    criteria_C: Float[Array, "C"], valid: Bool[Array, ""], recipe: RecipeArrays
) -> Float[Array, ""]:
    # An invalid sample's criteria may be NaN, which times 0 would stay NaN.
    criteria_C = jnp.where(valid, criteria_C, 0)
    accepted = jnp.all(criteria_C >= recipe.accept_C) | jnp.all(
        criteria_C >= recipe.alternatively_C
    )
    return jnp.where(valid & accepted, recipe.constant + criteria_C @ recipe.graded_C, 0)
