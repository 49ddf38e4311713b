"""From a verdict's criteria to a reward (paper eq. 6), one sample at a time."""

import dataclasses
from collections.abc import Mapping

Conditions = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The rule that turns named criteria into a reward.

    A sample is accepted when every (criterion, threshold) of `accept` holds (value >= threshold),
    or every one of `alternatively`, where that is not empty. An accepted sample earns 1, or its
    value of the criterion `graded` where one is named; any other earns 0.
    """

    name: str
    accept: Conditions = ()
    alternatively: Conditions = ()
    graded: str | None = None


def reward(recipe: Recipe, criteria: Mapping[str, float]) -> float:
    """The reward of one verdict; `objectives.rewards.rewards` is the same for arrays of them.

    Raises KeyError for a criterion that the verdict does not have.
    """
    accepted = _holds(recipe.accept, criteria) or (
        bool(recipe.alternatively) and _holds(recipe.alternatively, criteria)
    )
    if not accepted:
        return 0.0
    return 1.0 if recipe.graded is None else criteria[recipe.graded]


def _holds(conditions: Conditions, criteria: Mapping[str, float]) -> bool:
    return all(criteria[name] >= threshold for name, threshold in conditions)
