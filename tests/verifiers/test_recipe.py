"""One sample at a time, and the same as the arrays' rewards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@settings(max_examples=50)
@given(RECIPES, st.tuples(VALUES, VALUES, VALUES))
def test_a_reward_is_that_of_the_arrays(recipe: Recipe, values: tuple[float, ...]) -> None:
    criteria_PKC = np.asarray(values, dtype=np.float32)[None, None]
    expected = rewards(criteria_PKC, np.ones((1, 1), bool), compile_recipe(recipe, NAMES))
    assert reward(recipe, dict(zip(NAMES, values, strict=True))) == float(expected[0, 0])


def test_a_criterion_that_is_missing_is_an_error() -> None:
    with pytest.raises(KeyError, match="exact"):
        reward(Recipe("exact", accept=(("exact", 1.0),)), {"name": 1.0})
