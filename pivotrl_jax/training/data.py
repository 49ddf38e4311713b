"""Which rows each step trains on: a grain pipeline whose position is part of the checkpoint."""

import grain
import numpy as np


def index_batches(count: int, batch: int, seed: int) -> grain.DatasetIterator[np.ndarray]:
    """Endless batches of indices into `count` items, reshuffled every epoch.

    Deterministic in `seed`; `get_state()` and `set_state()` of the iterator save and restore its
    position. A batch never holds an item twice unless `count` is below `batch`.
    """
    batch = min(batch, count)
    epoch = grain.MapDataset.range(count).seed(seed).shuffle()
    # Batches are cut within an epoch, so that none repeats an item.
    return iter(epoch.batch(batch, drop_remainder=True).repeat().to_iter_dataset())
