"""TextWorld games as an environment: an opening, then one command a turn and its answer."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pivotrl_jax.environments.textworld_text import NOT_A_COMMAND, NOT_POSSIBLE, answer, opening
from pivotrl_jax.environments.types import Feedback, Split, Task
from pivotrl_jax.trajectories import Action, Message
from pivotrl_jax.verifiers.textworld import Game, commands, read_games


@dataclasses.dataclass(frozen=True)
class TextWorldGames:
    """The games of a file (`verifiers.textworld.write_games`), one task each.

    An episode is done when the game is won or lost. Its score is TextWorld's: the share of quests
    completed, each of which counts 1, and which stay completed.
    """

    path: str | Path

    @property
    def tools(self) -> tuple[dict[str, Any], ...]:
        """None: a command is plain text."""
        return ()

    @functools.cached_property
    def games(self) -> dict[str, Game]:
        """By id. Raises UserError where the file holds no games."""
        return read_games(self.path)

    def tasks(self, split: Split) -> Sequence[Task]:
        return [task_of(game) for game in self.games.values() if game.split == split]

    def reset(self, task: Task) -> tuple["TextWorldEpisode", Feedback]:
        return begin(self.games[task.id])


class TextWorldEpisode:
    """One play of a game."""

    def __init__(self, game: Game) -> None:
        self._game = game
        self.state = game.start

    def step(self, action: Action) -> Feedback:
        """Carries out a command; a text that is none, or not possible now, changes nothing."""
        game, before = self._game, self.state
        deed = None if action.calls else game.obeyed(before, action.text)
        if deed is None:
            known = not action.calls and game.understood(action.text)
            text = NOT_POSSIBLE if known else NOT_A_COMMAND
        else:
            self.state = game.after(before, deed)
            text = answer(game, before, deed)
        return Feedback(
            (Message("user", text),),
            done=game.won(self.state) or game.lost(self.state),
            score=game.reached(self.state) / len(game.goals),
            valid=deed is not None,
        )

    @property
    def legal(self) -> Sequence[str]:
        """All that can be done, in TextWorld's wording."""
        return commands(self._game, self.state)


def begin(game: Game) -> tuple[TextWorldEpisode, Feedback]:
    """A new play of a game, and its opening."""
    return TextWorldEpisode(game), Feedback((Message("user", opening(game)),))


def task_of(game: Game) -> Task:
    """Games are disjoint by content, so each is a group of its own."""
    return Task(game.id, game.id, game.split, {"game": game.id})
