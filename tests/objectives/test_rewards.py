"""Recipes against the rule written out."""

import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives import Recipe, compile_recipe, rewards, rewards_by_recipe

NAMES = ("well_formed", "same_program", "similarity", "exact")
BOTH = Recipe("command", accept=(("same_program", 1.0), ("similarity", 0.6)))
EITHER = Recipe("command_or_exact", BOTH.accept, alternatively=(("exact", 1.0),))
GRADED = Recipe("graded", graded="similarity")
GATED = Recipe("gated", accept=(("well_formed", 1.0),), graded="similarity")


def by_hand(recipe: Recipe, sample: dict[str, float]) -> float:
    accepted = all(sample[name] >= threshold for name, threshold in recipe.accept)
    if recipe.alternatively:
        accepted |= all(sample[name] >= threshold for name, threshold in recipe.alternatively)
    if not accepted:
        return 0.0
    return sample[recipe.graded] if recipe.graded else 1.0


@pytest.mark.parametrize("recipe", [BOTH, EITHER, GRADED, GATED], ids=lambda r: r.name)
def test_rewards_follow_the_rule(recipe):
    rng = np.random.default_rng(0)
    criteria_PKC = rng.choice([0, 0.3, 0.6, 1], size=(20, 8, 4)).astype(np.float32)
    valid_PK = rng.random((20, 8)) < 0.8
    expected_PK = np.zeros((20, 8))
    for p, k in np.argwhere(valid_PK):
        expected_PK[p, k] = by_hand(recipe, dict(zip(NAMES, criteria_PKC[p, k], strict=True)))
    # An error has no criteria: whatever stands in their place must not reach the reward.
    criteria_PKC[~valid_PK] = np.nan
    got_PK = rewards(criteria_PKC, valid_PK, compile_recipe(recipe, NAMES))
    np.testing.assert_allclose(got_PK, expected_PK)
    assert 0 < np.count_nonzero(got_PK) < valid_PK.sum()


def test_every_turn_is_rewarded_by_its_own_recipe():
    rng = np.random.default_rng(1)
    criteria_PKC = rng.choice([0, 0.3, 0.6, 1], size=(6, 8, 4)).astype(np.float32)
    valid_PK = rng.random((6, 8)) < 0.8
    recipes = [compile_recipe(recipe, NAMES) for recipe in (BOTH, GRADED, GATED)]
    number_P = np.array([2, 0, 1, 1, 0, 2], np.int32)
    got_PK = rewards_by_recipe(criteria_PKC, valid_PK, number_P, recipes)
    for p, number in enumerate(number_P):
        alone_PK = rewards(criteria_PKC[[p]], valid_PK[[p]], recipes[number])
        np.testing.assert_array_equal(got_PK[p], alone_PK[0])


def test_unknown_criterion_names_the_nearest():
    with pytest.raises(UserError, match=r"'typo': no 'simularity'.*did you mean 'similarity'"):
        compile_recipe(Recipe("typo", accept=(("simularity", 0.5),)), NAMES)
    with pytest.raises(UserError, match="did you mean 'exact'"):
        compile_recipe(Recipe("typo", graded="exat"), NAMES)


@pytest.mark.parametrize(
    "recipe", [Recipe("empty"), Recipe("half", alternatively=(("exact", 1.0),))]
)
def test_a_recipe_that_accepts_everything_is_refused(recipe):
    with pytest.raises(UserError, match="accepts every action"):
        compile_recipe(recipe, NAMES)
