"""Pivots chosen step by step from what training's own samples showed of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from pivotrl_jax.pivots import (
    OnlineSettings,
    OnlineState,
    Turn,
    choose,
    observe,
    places_of,
    summary,
)


class OnlineBatches:
    """`batch` pivots for each step, see `pivots.online`; every step's samples are to be observed.

    `weights` are the domains' shares of them. A `training.data.Batches`: its state are the counts,
    so that a resumed run chooses alike. A step may be taken before the one before it is observed,
    of which it knows nothing then.
    """

    def __init__(
        self,
        turns: Sequence[Turn],
        state: OnlineState,
        settings: OnlineSettings,
        weights: Mapping[str, float],
        batch: int,
        seed: int,
    ) -> None:
        self._index_of = {turn.id: index for index, turn in enumerate(turns)}
        domains = np.array([turn.domain for turn in turns])
        self._members = {name: np.flatnonzero(domains == name) for name in weights}
        self._weights = dict(weights)
        self._state, self._settings = state, settings
        self._taken = int(state.step)
        self._batch, self._seed = batch, seed

    def __next__(self) -> Int[np.ndarray, "R"]:
        step = self._taken
        self._taken += 1
        places = places_of(self._weights, self._batch, step)
        parts = [
            own[choose(self._of(own), self._settings, (self._seed, n), step, len(places[name]))]
            for n, (name, own) in enumerate(sorted(self._members.items()))
        ]
        return np.concatenate(parts)

    def _of(self, members: Int[np.ndarray, "M"]) -> OnlineState:
        state = self._state
        return OnlineState(state.passed_P[members], state.total_P[members], state.step)

    def observe(
        self,
        turns: Sequence[Turn],
        rewards_PK: Float[np.ndarray, "P K"],
        valid_PK: Bool[np.ndarray, "P K"],
    ) -> Mapping[str, float]:
        """Takes the samples of the first step that it has none of; returns numbers for metrics."""
        chosen = np.array([self._index_of[turn.id] for turn in turns])
        numbers = summary(self._state, self._settings, chosen, rewards_PK.shape[1])
        # Counts hold what is known before a step; the next one comes a step later.
        step = int(self._state.step) + 1
        self._state = observe(self._state, step, chosen, rewards_PK, valid_PK, self._settings)
        return numbers

    def get_state(self) -> dict[str, Any]:
        state = self._state
        return {
            "step": int(state.step),
            "taken": self._taken,
            "passed": np.asarray(state.passed_P).tolist(),
            "total": np.asarray(state.total_P).tolist(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        self._state = OnlineState(
            np.asarray(state["passed"], np.float32),
            np.asarray(state["total"], np.float32),
            np.asarray(state["step"], np.int32),
        )
        self._taken = state["taken"]
