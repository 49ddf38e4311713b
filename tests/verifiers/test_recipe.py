"""One sample at a time, and the same as the arrays' rewards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives import compile_recipe, rewards
from pivotrl_jax.verifiers.recipe import Recipe, reward

NAMES = ("kind", "name", "similarity")
VALUES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
CONDITIONS = st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1).map(
    lambda chosen: tuple(chosen.items())
)
RECIPES = st.builds(
    Recipe,
    st.just("any"),
    accept=CONDITIONS,
    alternatively=st.one_of(st.just(()), CONDITIONS),
    graded=st.one_of(st.none(), st.sampled_from(NAMES)),
)
WEIGHTED = st.builds(
    Recipe,
    st.just("any"),
    accept=st.one_of(st.just(()), CONDITIONS),
    weights=st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0.5, 1.0, 3.0]), min_size=1)
    .map(lambda chosen: tuple(chosen.items())),
)  # fmt: skip


@settings(max_examples=50)
@given(st.one_of(RECIPES, WEIGHTED), st.tuples(VALUES, VALUES, VALUES))
def test_a_reward_is_that_of_the_arrays(recipe: Recipe, values: tuple[float, ...]) -> None:
    criteria_PKC = np.asarray(values, dtype=np.float32)[None, None]
    expected = rewards(criteria_PKC, np.ones((1, 1), bool), compile_recipe(recipe, NAMES))
    alone = reward(recipe, dict(zip(NAMES, values, strict=True)))
    assert alone == pytest.approx(float(expected[0, 0]), abs=1e-6)


def test_an_accepted_sample_earns_the_weighted_mean() -> None:
    recipe = Recipe("mixed", accept=(("kind", 1.0),), weights=(("name", 3.0), ("similarity", 1.0)))
    assert reward(recipe, {"kind": 1.0, "name": 1.0, "similarity": 0.5}) == 0.875
    assert reward(recipe, {"kind": 0.5, "name": 1.0, "similarity": 0.5}) == 0
    np.testing.assert_allclose(compile_recipe(recipe, NAMES).graded_C, [0, 0.75, 0.25])


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (Recipe("r", graded="name", weights=(("name", 1.0),)), "both 'graded' and 'weights'"),
        (Recipe("r", weights=(("name", 1.0), ("kind", 0.0))), "not positive"),
        (Recipe("r", weights=(("name", float("nan")),)), "not positive"),
        (Recipe("r", weights=(("nam", 1.0),)), "'name'"),
        (Recipe("r", (), (("kind", 1.0),), weights=(("name", 1.0),)), "accepts every action"),
    ],
)
def test_weights_that_make_no_recipe_are_told(recipe: Recipe, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compile_recipe(recipe, NAMES)


def test_a_criterion_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError, match="exact"):
        reward(Recipe("exact", accept=(("exact", 1.0),)), {"name": 1.0})
