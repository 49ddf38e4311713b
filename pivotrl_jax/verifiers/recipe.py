"""From a verdict's criteria to a reward (paper eq. 6), one sample at a time."""

import dataclasses
from collections.abc import Mapping

Conditions = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The rule that turns named criteria into a reward.

    A sample is accepted when every (criterion, threshold) of `accept` holds (value >= threshold),
    or every one of `alternatively`, where that is not empty. An accepted sample earns 1, or its
    value of the criterion `graded` where one is named, or the mean of the criteria in `weights`, of
    which each counts by its positive weight; any other earns 0.
    """

    name: str
    accept: Conditions = ()
    alternatively: Conditions = ()
    graded: str | None = None
    weights: Conditions = ()

    @property
    def shares(self) -> Conditions:
        """What an accepted sample earns by: (criterion, share), shares summing to 1; () for 1."""
        weights = self.weights or (((self.graded, 1.0),) if self.graded is not None else ())
        total = sum(weight for _, weight in weights)
        return tuple((name, weight / total) for name, weight in weights)


def reward(recipe: Recipe, criteria: Mapping[str, float]) -> float:
    """The reward of one verdict; `objectives.rewards.rewards` is the same for arrays of them.

    Raises KeyError for a criterion that the verdict does not have.
    """
    accepted = _holds(recipe.accept, criteria) or (
        bool(recipe.alternatively) and _holds(recipe.alternatively, criteria)
    )
    if not accepted:
        return 0.0
    shares = recipe.shares
    return sum(share * criteria[name] for name, share in shares) if shares else 1.0


def _holds(conditions: Conditions, criteria: Mapping[str, float]) -> bool:
    return all(criteria[name] >= threshold for name, threshold in conditions)
