"""Steps that are sampled one ahead, so that their verdicts are made while the device updates."""

import base64
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from pivotrl_jax.sampling import Sample
from pivotrl_jax.training.data import Batches
from pivotrl_jax.training.pivotrl import Drawn, PivotStep
from pivotrl_jax.training.state import TrainState
from pivotrl_jax.trees import chunks


class OneAhead:
    """`step` as a step that samples for the next one before it updates, and `data` as its batches.

    The order of step n is: sample for n + 1, whose verdicts a thread makes; wait for the verdicts
    of n; update. The first step samples for itself, too, and number `last` for none after it. All
    others learn from samples of the policy of one update before. The log-probs that the batch holds
    are that policy's, so that the importance ratio of eq. 7 corrects for it; the gradients of the
    KL estimators, which suppose samples of the current policy, are off by that one update. Where
    batches depend on earlier samples, that of n + 1 is chosen without those of n.

    What is sampled but not learnt from is part of the state of the batches, and so of a checkpoint,
    without its verdicts: they are made again.
    """

    def __init__(self, step: PivotStep, data: Batches, last: int) -> None:
        self._step, self._data, self._last = step, data, last
        self._next: Drawn | None = None

    def __call__(
        self, state: TrainState, indices: np.ndarray, number: int
    ) -> tuple[TrainState, Mapping[str, float]]:
        began = time.monotonic()
        drawn = self._next or self._step.draw(state.params, indices, number)
        self._next = None
        if number < self._last:
            self._next = self._step.draw(state.params, next(self._data), number + 1)
        return self._step.learn(state, drawn, number, began)

    def __next__(self) -> Int[np.ndarray, "R"]:
        return next(self._data) if self._next is None else self._next.indices

    def get_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"data": self._data.get_state()}
        if self._next is None:
            return state
        samples = _packed(self._next.rollout.samples)
        return state | {"indices": self._next.indices.tolist(), "samples": samples}

    def set_state(self, state: dict[str, Any]) -> None:
        self._data.set_state(state["data"])
        self._next = None
        if "samples" in state:
            samples = _unpacked(state["samples"])
            self._next = self._step.recall(np.array(state["indices"]), samples)


def _packed(samples: Sequence[Sequence[Sample]]) -> str:
    """K samples of each of P turns as text, to the bit."""
    drawn = [one for group in samples for one in group]
    routes = [one.routes for one in drawn if one.routes is not None]
    file = io.BytesIO()
    np.savez(
        file,
        tokens=np.concatenate([one.tokens for one in drawn]),
        behaviour=np.concatenate([one.behaviour for one in drawn]),
        plain=np.concatenate([one.plain for one in drawn]),
        truncated=np.array([one.truncated for one in drawn]),
        drafted=np.array([one.drafted for one in drawn]),
        lengths=np.array([len(one.tokens) for one in drawn]),
        group=np.array(len(samples[0])),
        routes=np.concatenate(routes or [np.zeros(0)]),
    )
    return base64.b64encode(file.getvalue()).decode()


def _unpacked(text: str) -> list[Sequence[Sample]]:
    with np.load(io.BytesIO(base64.b64decode(text))) as file:
        found = dict(file)
    ends = np.cumsum(found["lengths"])[:-1]
    parts = (np.split(found[name], ends) for name in ("tokens", "behaviour", "plain"))
    flags = (found[name].tolist() for name in ("truncated", "drafted"))
    routes = np.split(found["routes"], ends) if found["routes"].size else [None] * (len(ends) + 1)
    drawn = [Sample(*one) for one in zip(*parts, *flags, routes, strict=True)]
    return list(chunks(drawn, int(found["group"])))
