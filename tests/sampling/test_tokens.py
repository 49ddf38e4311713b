"""Drawing tokens against enumerated distributions in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pivotrl_jax.errors import UserError
from pivotrl_jax.sampling import SamplingSettings, draw
from pivotrl_jax.sampling.tokens import in_blocks, invert_cdf, truncate

ALMOST_ONE = np.float32(1) - np.finfo(np.float32).epsneg
over_u = jax.jit(lambda u, probs: jax.vmap(invert_cdf, in_axes=(0, None))(u, in_blocks(probs)))


def distribution(size: int, zeros: float = 0.0, seed: int = 0) -> np.ndarray:
    """A peaked distribution over `size` tokens, of which a share `zeros` has no mass."""
    rng = np.random.default_rng(seed)
    probs = rng.exponential(size=size) ** 3 * (rng.random(size) >= zeros)
    probs[rng.integers(size)] += 0.1
    return (probs / probs.sum()).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 49152])
def test_invert_cdf_is_a_search_in_the_cumulative_distribution(size):
    probs = distribution(size, zeros=0.3)
    edges = np.cumsum(probs, dtype=np.float64)
    edges /= edges[-1]
    u = np.random.default_rng(1).random(4096).astype(np.float32)
    # Float32 sums may put a number this close to an edge on its other side.
    u = u[np.abs(u[:, None] - edges[np.searchsorted(edges, u)[:, None] + [-1, 0]]).min(1) > 1e-6]
    assert len(u) > 3000
    np.testing.assert_array_equal(over_u(u, probs), np.searchsorted(edges, u, side="right"))


@pytest.mark.parametrize("size", [1, 2, 255, 257, 49152])
def test_the_ends_of_the_unit_interval_are_the_first_and_last_possible_token(size):
    probs = distribution(size, zeros=0.5, seed=3)
    possible = np.flatnonzero(probs)
    first, last = over_u(np.array([0, ALMOST_ONE], np.float32), probs)
    assert first == possible[0]
    assert probs[last] > 0
    assert probs[last + 1 :].sum() <= 1e-6


@pytest.mark.parametrize("size", [257, 4096, 151936])
def test_a_token_without_mass_is_never_drawn(size):
    """Not even next to an edge: from 512 numbers on, XLA's running sums are not monotone."""
    probs = distribution(size, zeros=0.5)
    edges = np.cumsum(probs.astype(np.float64)).astype(np.float32)
    steps = np.arange(-8, 9, dtype=np.float32) * np.finfo(np.float32).epsneg
    u = np.clip(edges[:4096, None] + steps, 0, ALMOST_ONE).ravel()
    assert (probs[over_u(u, probs)] > 0).all()


SETTINGS = [
    SamplingSettings(),
    SamplingSettings(temperature=0.5),
    SamplingSettings(temperature=1.7, top_k=3),
    SamplingSettings(top_p=0.7),
    SamplingSettings(temperature=0.8, top_k=6, top_p=0.6),
    SamplingSettings(top_p=0.01),
    SamplingSettings(top_k=1),
]
LOGITS = np.random.default_rng(2).normal(0, 1.5, 12).astype(np.float32)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_truncation_equals_the_reference(settings, reference):
    for logits in (LOGITS, -LOGITS, 3 * LOGITS):
        kept = truncate(logits[None] / settings.temperature, settings)
        np.testing.assert_allclose(
            jax.nn.softmax(kept)[0], reference(logits, settings), rtol=1e-5, atol=1e-7
        )


def test_ties_at_the_border_stay():
    logits = np.log(np.array([[0.4, 0.2, 0.2, 0.2]], np.float32))
    for settings in (SamplingSettings(top_k=2), SamplingSettings(top_p=0.5)):
        np.testing.assert_allclose(
            jax.nn.softmax(truncate(logits, settings))[0], [0.4, 0.2, 0.2, 0.2], rtol=1e-5
        )


@pytest.mark.parametrize("settings", SETTINGS[:5], ids=str)
def test_draws_follow_the_distribution_and_report_its_log_prob(settings, reference):
    n = 20_000
    keys = jax.random.split(jax.random.key(3), n)
    logits = jnp.broadcast_to(LOGITS, (n, LOGITS.size))
    tokens, behaviour, plain = jax.jit(draw, static_argnums=2)(keys, logits, settings)
    probs = reference(LOGITS, settings)
    counts = np.bincount(tokens, minlength=probs.size)
    assert counts[probs == 0].sum() == 0
    possible = probs > 0
    assert stats.chisquare(counts[possible], n * probs[possible]).pvalue > 1e-3
    # The same draws refute a temperature that is 10 % lower.
    wrong = probs[possible] ** 1.1
    assert stats.chisquare(counts[possible], n * wrong / wrong.sum()).pvalue < 1e-3
    np.testing.assert_allclose(behaviour, np.log(probs[tokens]), rtol=1e-5, atol=1e-6)
    expected = np.log(reference(LOGITS, SamplingSettings()))
    np.testing.assert_allclose(plain, expected[tokens], rtol=1e-5, atol=1e-6)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match=r"temperature is 0; it must be positive"):
        SamplingSettings(temperature=0)
    for top_p in (0, 1.2):
        with pytest.raises(UserError, match=r"top_p is .*; it must lie in \(0, 1\]"):
            SamplingSettings(top_p=top_p)
