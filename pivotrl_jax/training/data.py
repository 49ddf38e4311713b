"""Which rows each step trains on, with a position that is part of the checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np
from jaxtyping import Int

from pivotrl_jax.pivots import mixed_batch


class Batches(Protocol):
    """The indices of one step after the other; the state is JSON."""

    def __next__(self) -> Int[np.ndarray, "R"]: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


def index_batches(
    sizes: Sequence[int], batch: int, seed: int
) -> grain.DatasetIterator[Int[np.ndarray, "R"]]:
    """Endless batches of indices into items of `sizes` (tokens), anew in every epoch.

    Deterministic in `seed`; `get_state()` and `set_state()` of the iterator save and restore its
    position. A batch never holds an item twice; the items that are left over differ from epoch to
    epoch. The batches of an epoch are of about equal total size, so that few shapes serve them all
    and little is padded.
    """
    batch = min(batch, len(sizes))
    count = len(sizes) // batch

    def pick(number: int, _: int) -> Int[np.ndarray, "R"]:
        return even_batches(sizes, batch, np.random.default_rng((seed, number // count)))[
            number % count
        ]

    return iter(grain.MapDataset.range(count).repeat().map_with_index(pick).to_iter_dataset())


def length_batches(
    lengths: Sequence[int], tokens: int, seed: int
) -> grain.DatasetIterator[Int[np.ndarray, "R"]]:
    """Endless batches of indices into rows of `lengths`, anew in every epoch; like `index_batches`.

    The rows of a batch are of one length and together `tokens` long, or as long as there are.
    """
    count = len(batches_by_length(lengths, tokens, np.random.default_rng(seed)))

    def pick(number: int, _: int) -> Int[np.ndarray, "R"]:
        rng = np.random.default_rng((seed, number // count))
        return batches_by_length(lengths, tokens, rng)[number % count]

    return iter(grain.MapDataset.range(count).repeat().map_with_index(pick).to_iter_dataset())


def mixed_batches(
    domains: Sequence[str], weights: Mapping[str, float], batch: int, seed: int
) -> grain.DatasetIterator[Int[np.ndarray, "R"]]:
    """Endless batches with every domain's share; see `pivots.mixing.mixed_batch`."""
    batch = min(batch, len(domains))

    def pick(number: int, _: int) -> Int[np.ndarray, "R"]:
        return mixed_batch(domains, weights, batch, seed, number)

    return iter(grain.MapDataset.range(1).repeat().map_with_index(pick).to_iter_dataset())


def even_batches(
    sizes: Sequence[int], batch: int, rng: np.random.Generator
) -> Int[np.ndarray, "N R"]:
    """As many batches as there are, in random order: a random choice of items is sorted by size and
    dealt out back and forth. Sizes are blurred, or else the same items would always meet."""
    order = rng.permutation(len(sizes))[: len(sizes) // batch * batch]
    blurred = np.take(sizes, order) * rng.uniform(0.95, 1.05, len(order))
    dealt = order[np.argsort(-blurred)].reshape(batch, -1)
    dealt[1::2] = dealt[1::2, ::-1]
    return rng.permutation(dealt.T)


def batches_by_length(
    lengths: Sequence[int], tokens: int, rng: np.random.Generator
) -> list[Int[np.ndarray, "R"]]:
    """As many batches as there are of rows of one length, in random order."""
    batches: list[np.ndarray] = []
    for length in np.unique(lengths):
        own = rng.permutation(np.flatnonzero(np.equal(lengths, length)))
        batch = min(max(tokens // int(length), 1), len(own))
        batches += list(own[: len(own) // batch * batch].reshape(-1, batch))
    return [batches[i] for i in rng.permutation(len(batches))]
