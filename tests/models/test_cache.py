"""Trunks that are read piece by piece, against trunks that are read at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pivotrl_jax.models import ModelConfig
from pivotrl_jax.models.cache import Cache, LayerCache, extend, prefill, trunk_cache, unstack

ROWS, ROOM, PIECES, SIZE = 3, 160, 4, 16
Piece = tuple[int, int, int]  # row, first token, tokens
read_at_once = jax.jit(prefill, static_argnames="cfg")
read_pieces = jax.jit(extend, static_argnames="cfg")


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[int], list[list[Piece]]]:
    """Lengths of trunks, and a way to read them: pieces of a row in order, rows in any."""
    lengths = draw(st.lists(st.integers(1, ROOM), min_size=ROWS, max_size=ROWS))
    done, found = [0] * ROWS, [[]]
    while left := [row for row in range(ROWS) if done[row] < lengths[row]]:
        row = draw(st.sampled_from(left))
        size = draw(st.integers(1, min(SIZE, lengths[row] - done[row])))
        if len(found[-1]) == PIECES or draw(st.integers(0, 3)) == 0:
            found.append([])
        found[-1].append((row, done[row], size))
        done[row] += size
    return lengths, found


def arrays(pieces: list[Piece], tokens_RL: np.ndarray) -> tuple[np.ndarray, ...]:
    tokens, places = np.ones((PIECES, SIZE), np.int32), np.full((PIECES, SIZE), ROOM, np.int32)
    rows = np.zeros(PIECES, np.int32)
    for number, (row, start, size) in enumerate(pieces):
        rows[number] = row
        places[number, :size] = start + np.arange(size)
        tokens[number, :size] = tokens_RL[row, start : start + size]
    return tokens, rows, places


def stale(cfg: ModelConfig) -> Cache:
    """What rows hold before a dialogue is read into them: another's keys and values."""
    filled = lambda x: jax.random.normal(jax.random.key(5), x.shape, x.dtype)  # noqa: E731
    return jax.tree.map(filled, trunk_cache(cfg, ROWS, ROOM))


@settings(max_examples=6)
@given(case=calls())
def test_pieces_read_one_after_the_other_are_the_trunk(family, case):
    lengths, schedule = case
    cfg, params = family.cfg, family.params
    layers = unstack(params.layers, cfg.layers)
    tokens_RL = np.random.default_rng(0).integers(cfg.vocab, size=(ROWS, ROOM))
    hidden_RLD, whole, _ = read_at_once(params, cfg, jnp.asarray(tokens_RL, jnp.int32))
    cache = before = stale(cfg)
    for pieces in schedule:
        hidden_QND, cache = read_pieces(params, layers, cfg, *arrays(pieces, tokens_RL), cache)
        for found_ND, (row, start, size) in zip(hidden_QND, pieces, strict=False):
            expected = hidden_RLD[row, start : start + size]
            np.testing.assert_allclose(found_ND[:size], expected, rtol=1e-4, atol=1e-5)
    here_RL = np.arange(ROOM) < np.array(lengths)[:, None]
    for grown, full, old in zip(cache, whole, before, strict=True):
        expected = LayerCache(
            np.where(here_RL[:, None, None], full.k, old.k),
            np.where(here_RL[:, None, :, None], full.v, old.v),
        )
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, grown, expected)
