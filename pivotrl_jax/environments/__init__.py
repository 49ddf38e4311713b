"""Multi-turn environments behind one small interface."""

from pivotrl_jax.environments.dialogue import ChatFormat
from pivotrl_jax.environments.episodes import EpisodeSettings, play
from pivotrl_jax.environments.sql import InterCodeSql
from pivotrl_jax.environments.textworld import TextWorldGames
from pivotrl_jax.environments.types import (
    Ending,
    Environment,
    Episode,
    Feedback,
    Move,
    Played,
    Split,
    Task,
)

__all__ = [
    "ChatFormat",
    "Ending",
    "Environment",
    "Episode",
    "EpisodeSettings",
    "Feedback",
    "InterCodeSql",
    "Move",
    "Played",
    "Split",
    "Task",
    "TextWorldGames",
    "play",
]
