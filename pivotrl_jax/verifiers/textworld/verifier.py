"""Functional equivalence of commands in a text game: as good is what leaves no longer a plan."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from pivotrl_jax.text.actions import ParsedAction
from pivotrl_jax.trajectories.schema import Action, Context
from pivotrl_jax.verifiers.textworld.games import read_games
from pivotrl_jax.verifiers.textworld.plans import Plans
from pivotrl_jax.verifiers.textworld.world import Game, State
from pivotrl_jax.verifiers.verdict import Rules, Verdict

# A few thousand states each, so that games of a batch of pivots are kept and those of all are not.
_MOST_PLANS = 32


@dataclasses.dataclass(frozen=True)
class TextWorld(Rules):
    """Compares a command with the expert's by the shortest plans that remain after either.

    The game is the one that `context.facts["game"]` names, its state what the dialogue's commands
    so far have led to. Criteria, each 0 or 1:
      parsed    the sample parsed as text without calls
      valid     the game knows the command and it is possible here
      progress  no more commands are left to the end than after the expert's
      exact     same text up to blanks and case
    Where the expert's command is not possible, every sample is an error.

    `games` is a file of games (`write_games`). Raises UserError if there is none.
    """

    games: str
    name = "textworld"
    criteria = ("parsed", "valid", "progress", "exact")

    def __post_init__(self) -> None:
        _ = self._games  # a wrong path is told now

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process searches for plans of its own."""
        return type(self), (self.games,)

    @functools.cached_property
    def _games(self) -> dict[str, Game]:
        return read_games(self.games)

    @functools.cached_property
    def _plans(self) -> Callable[[str], Plans]:
        return functools.lru_cache(maxsize=_MOST_PLANS)(lambda name: Plans(self._games[name]))

    def _verdict(self, expert: Action, sampled: ParsedAction, context: Context) -> Verdict:
        name = context.facts.get("game")
        if name not in self._games:
            return Verdict({}, "", error=f"no game {name!r}: the record's fact 'game' names it")
        game = self._games[name]
        state = replayed(game, context)
        best = game.obeyed(state, expert.text)
        if best is None:
            return Verdict({}, "", error="the expert's command is not possible here")
        problems = "; ".join(sampled.problems) or ("a call" if sampled.action.calls else "")
        if problems:
            return self._scores({}, problems)
        text = sampled.action.text
        scores = {"parsed": 1.0, "exact": float(_same_text(text, expert.text))}
        deed = game.obeyed(state, text)
        if deed is None:
            known = game.understood(text)
            return self._scores(scores, "not possible here" if known else "not a command")
        left = self._plans(name).left
        plans = left(game.after(state, deed)), left(game.after(state, best))
        scores |= {"valid": 1.0, "progress": float(plans[0] <= plans[1])}
        return self._scores(scores, f"{plans[0]:g} commands left, {plans[1]:g} after the expert's")


def replayed(game: Game, context: Context) -> State:
    """The state that the dialogue's commands have led to; impossible ones change nothing."""
    state = game.start
    for message in context.history:
        if message.role == "assistant" and not message.calls:
            deed = game.obeyed(state, message.content)
            state = state if deed is None else game.after(state, deed)
    return state


def _same_text(*texts: str) -> bool:
    first, second = (text.lower().split() for text in texts)
    return first == second
