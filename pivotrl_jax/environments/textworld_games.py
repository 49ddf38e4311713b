"""Generated TextWorld games of a stated difficulty."""

import itertools
from collections.abc import Mapping
from random import Random

from pivotrl_jax.environments.textworld_house import Difficulty, draw
from pivotrl_jax.environments.types import Split
from pivotrl_jax.errors import UserError
from pivotrl_jax.verifiers.textworld import Game, Plans

_MOST_TRIES = 100  # houses per game asked for


def generate(difficulty: Difficulty, counts: Mapping[Split, int], seed: int) -> list[Game]:
    """So many games per split, no two of one content (`verifiers.textworld.content`).

    The same arguments give the same games. Raises UserError where the difficulty does not admit so
    many, and where the package textworld is not installed.
    """
    # Only making games needs the package textworld.
    from pivotrl_jax.environments.textworld_build import build, grounded

    found: dict[str, Game] = {}
    numbers = itertools.count()
    tries = _MOST_TRIES * sum(counts.values())
    for split, count in counts.items():
        full = len(found) + count
        while len(found) < full:
            number = next(numbers)
            if number == tries:
                raise UserError(
                    f"{tries} houses gave only {len(found)} of {sum(counts.values())} games of "
                    f"{difficulty}: ask for fewer games, more rooms or other lengths of plans"
                )
            game = grounded(build(draw(difficulty, Random(f"{seed}/{number}"))), split)
            shortest, longest = difficulty.plan
            if game.id not in found and shortest <= Plans(game).left(game.start) <= longest:
                found[game.id] = game
    return list(found.values())
