"""Commands in TextWorld games, judged by the plans that remain after them."""

from pivotrl_jax.verifiers.textworld.games import content, read_games, write_games
from pivotrl_jax.verifiers.textworld.plans import Plans, wanted
from pivotrl_jax.verifiers.textworld.verifier import TextWorld, replayed
from pivotrl_jax.verifiers.textworld.wording import TEMPLATES, canonical, normal
from pivotrl_jax.verifiers.textworld.world import (
    INVENTORY,
    YOU,
    Deed,
    Fact,
    Game,
    Goal,
    State,
    commands,
)

__all__ = [
    "INVENTORY",
    "TEMPLATES",
    "YOU",
    "Deed",
    "Fact",
    "Game",
    "Goal",
    "Plans",
    "State",
    "TextWorld",
    "canonical",
    "commands",
    "content",
    "normal",
    "read_games",
    "replayed",
    "wanted",
    "write_games",
]
