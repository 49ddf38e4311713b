"""Multi-turn environments behind one small interface."""

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

__all__ = ["Ending", "Environment", "Episode", "Feedback", "Move", "Played", "Split", "Task"]
