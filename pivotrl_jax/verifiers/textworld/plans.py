"""Exact lengths of shortest plans."""

import functools
import heapq
import math
import operator

from pivotrl_jax.verifiers.textworld.world import Deed, Game, State


class Plans:
    """How many commands a game still takes from any state, by search; results are kept.

    The search walks, opens, unlocks, takes what a goal or a lock asks for, and does what reaches a
    goal: no shortest plan does anything else. What a goal or a command needs (open, held, at hand)
    is undone by closing, locking, dropping and putting elsewhere, and all that these make possible
    is to undo them, so a plan stays one without them.
    """

    def __init__(self, game: Game) -> None:
        self._game = game
        self._useful = _useful(game)
        masks = [deed.needs | deed.adds | deed.drops for deed in self._useful]
        facts = (1 << len(game.facts)) - 1
        self._relevant = functools.reduce(operator.or_, masks, ~facts)
        self._left: dict[State, float] = {}

    def left(self, state: State) -> float:
        """The length of the shortest plan that wins; infinite where none does."""
        state &= self._relevant
        if state not in self._left:
            self._explore(state)
        return self._left[state]

    def _explore(self, start: State) -> None:
        """Adds every state within reach of `start`, backwards from those whose length is known."""
        reached: list[State] = [start]
        before: dict[State, list[State]] = {start: []}
        queue: list[tuple[float, State]] = []
        for state in reached:
            if state in self._left or self._game.won(state):
                queue.append((self._left.get(state, 0), state))
                continue
            for following in self._next(state):
                if following not in before:
                    before[following] = []
                    reached.append(following)
                before[following].append(state)
        heapq.heapify(queue)
        found: dict[State, float] = {}
        while queue:
            length, state = heapq.heappop(queue)
            if state not in found:
                found[state] = length
                for earlier in before[state]:
                    heapq.heappush(queue, (length + 1, earlier))
        self._left |= {state: found.get(state, math.inf) for state in reached}

    def _next(self, state: State) -> list[State]:
        if self._game.lost(state):
            return []
        useful = (deed for deed in self._useful if state & deed.needs == deed.needs)
        return [self._game.after(state, deed) for deed in useful]


def wanted(game: Game) -> set[str]:
    """The things that goals speak of, and the keys."""
    keys = {fact[1] for fact in game.facts if fact[0] == "match"}
    return keys | {fact[1] for fact in game.holding(_wins(game))}


def _wins(game: Game) -> int:
    return functools.reduce(operator.or_, (goal.wins for goal in game.goals))


def _useful(game: Game) -> list[Deed]:
    things, wins = wanted(game), _wins(game)
    return [
        deed
        for deed in game.deeds
        if deed.adds & wins
        or deed.verb in ("go", "open", "unlock")
        or (deed.verb == "take" and deed.names[0] in things)
    ]
