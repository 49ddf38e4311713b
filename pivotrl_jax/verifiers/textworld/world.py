"""A TextWorld game without TextWorld: its facts as bits, its actions as masks over them.

TextWorld's logic is a set of facts, and actions that need, remove and add some of them. Grounded
once per game that is exact in integers, and a step takes microseconds instead of milliseconds.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Literal

from pivotrl_jax.verifiers.textworld.wording import canonical, normal, wordings

YOU, INVENTORY = "you", "inventory"  # TextWorld's P and I in facts

Fact = tuple[str, ...]  # a predicate and its names: ("on", "pear", "shelf")
State = int  # a bit per fact that holds, then one per goal reached, then one for "lost"


@dataclasses.dataclass(frozen=True, slots=True)
class Deed:
    """One thing to do: the first word and the names of TextWorld's command, and its effect.

    It is possible where all facts of `needs` hold (those that never change left out).
    """

    verb: str
    names: tuple[str, ...]
    needs: int
    adds: int = 0
    drops: int = 0


@dataclasses.dataclass(frozen=True)
class Goal:
    """A quest: reached for good once all facts of `wins` hold, and until then lost with `fails`.

    `fails` is 0 where the quest cannot be lost.
    """

    wins: int
    fails: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
    """One game. `kinds` are TextWorld's types (r, d, c, s, o, f, k) of all names."""

    id: str
    split: Literal["train", "validation", "test"]
    kinds: Mapping[str, str]
    facts: tuple[Fact, ...]
    start: State
    deeds: tuple[Deed, ...]
    goals: tuple[Goal, ...]

    def holding(self, state: State) -> Iterator[Fact]:
        """The facts that hold, in an order that is the same in every state."""
        return (fact for i, fact in enumerate(self.facts) if state >> i & 1)

    def possible(self, state: State) -> Iterator[Deed]:
        """What can be done; nothing once the game is over."""
        if self.won(state) or self.lost(state):
            return iter(())
        return (deed for deed in self.deeds if state & deed.needs == deed.needs)

    def after(self, state: State, deed: Deed) -> State:
        """The state that a possible deed leads to."""
        state = state & ~deed.drops | deed.adds
        for number, goal in enumerate(self.goals, len(self.facts)):
            if state >> number & 1:
                continue
            if state & goal.wins == goal.wins:
                state |= 1 << number
            elif goal.fails and state & goal.fails == goal.fails:
                state |= self._lost
        return state

    def reached(self, state: State) -> int:
        """How many goals have been reached."""
        return (state & self._won).bit_count()

    def won(self, state: State) -> bool:
        return state & self._won == self._won

    def lost(self, state: State) -> bool:
        return bool(state & self._lost)

    def understood(self, command: str) -> tuple[Deed, ...]:
        """The deeds, possible or not, that a command may mean; () for any other text."""
        return self._wordings.get(normal(command), ())

    def obeyed(self, state: State, command: str) -> Deed | None:
        """The possible deed that a command means, if there is one."""
        if self.won(state) or self.lost(state):
            return None
        meant = self.understood(command)
        return next((deed for deed in meant if state & deed.needs == deed.needs), None)

    @functools.cached_property
    def _won(self) -> State:
        return (1 << len(self.goals)) - 1 << len(self.facts)

    @functools.cached_property
    def _lost(self) -> State:
        return 1 << len(self.facts) + len(self.goals)

    @functools.cached_property
    def _wordings(self) -> dict[str, tuple[Deed, ...]]:
        found: dict[str, tuple[Deed, ...]] = {}
        for deed in self.deeds:
            for wording in wordings(deed.verb, deed.names):
                found[wording] = (*found.get(wording, ()), deed)
        return found


def commands(game: Game, state: State) -> list[str]:
    """TextWorld's commands for all that can be done, sorted."""
    return sorted(canonical(deed.verb, deed.names) for deed in game.possible(state))
