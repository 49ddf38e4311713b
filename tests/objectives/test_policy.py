"""The policy and supervised losses against loops over samples and tokens."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives import (
    PolicySettings,
    loss_count,
    policy_loss,
    supervised_loss,
)

ROWS, TOKENS, SAMPLES = 4, 24, 5
# Every ratio with every estimator, and with both aggregations.
SETTINGS = [
    PolicySettings(0.2, 0.28, ratio, ("token", "sequence")[i % 2], 0.1, estimator)
    for i, (ratio, estimator) in enumerate(
        itertools.product(["token", "sequence", "sequence_mean"], ["k1", "k2", "k3"])
    )
]


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Rows of interleaved samples, some absent, one row of padding only; NaN at padding."""
    rng = np.random.default_rng(3)
    sample_RA = rng.integers(0, SAMPLES, (ROWS, TOKENS)).astype(np.int32)
    weight_RA = np.float32(rng.random((ROWS, TOKENS)) < 0.7)
    weight_RA[1, sample_RA[1] == 2] = 0
    weight_RA[3] = 0
    advantage_RB = rng.normal(size=(ROWS, SAMPLES))
    logp_RA = -rng.exponential(1.0, (ROWS, TOKENS))
    arrays = {
        "logp_RA": logp_RA,
        "old_logp_RA": logp_RA + rng.normal(0, 0.8, logp_RA.shape),
        "ref_logp_RA": logp_RA + rng.normal(0, 0.5, logp_RA.shape),
        "advantage_RA": np.take_along_axis(advantage_RB, sample_RA, axis=1),
    }
    masked = {k: np.where(weight_RA > 0, x, np.nan).astype(np.float32) for k, x in arrays.items()}
    return {**masked, "weight_RA": weight_RA, "sample_RA": sample_RA}


def kl_by_hand(drift: float, estimator: str) -> float:
    return {"k1": drift, "k2": drift**2 / 2, "k3": np.exp(-drift) - 1 + drift}[estimator]


def token_losses(batch: dict[str, np.ndarray], s: PolicySettings) -> list[dict]:
    """One dictionary per sample: its tokens' losses, clip marks, KL and ratios."""
    out = []
    for r, b in itertools.product(range(ROWS), range(SAMPLES)):
        mine = (batch["sample_RA"][r] == b) & (batch["weight_RA"][r] > 0)
        logp, old, ref, advantage = (np.float64(x[r][mine]) for x in list(batch.values())[:4])
        if not len(logp):
            continue
        log_ratios, drifts = logp - old, logp - ref
        if s.ratio == "sequence":
            log_ratios, drifts = (np.full(len(x), x.sum()) for x in (log_ratios, drifts))
        if s.ratio == "sequence_mean":
            log_ratios = np.full(len(logp), log_ratios.mean())
        sample = {"loss": [], "clipped": [], "kl": [], "ratio": []}
        for log_ratio, drift, a in zip(log_ratios, drifts, advantage, strict=True):
            w = np.exp(log_ratio)
            bounded = min(max(w, 1 - s.clip_low), 1 + s.clip_high)
            kl = kl_by_hand(drift, s.kl_estimator)
            sample["loss"].append(-min(w * a, bounded * a) + s.kl_coef * kl)
            sample["clipped"].append(bounded * a < w * a)
            sample["kl"].append(kl)
            sample["ratio"].append(w)
        out.append(sample)
    return out


@functools.partial(jax.jit, static_argnames="settings")
def run(batch: dict, settings: PolicySettings, normaliser: float):
    return policy_loss(**batch, normaliser=normaliser, settings=settings, samples=SAMPLES)


COUNT = jax.jit(loss_count, static_argnums=(2, 3))


def count(batch: dict, settings: PolicySettings) -> float:
    return COUNT(batch["weight_RA"], batch["sample_RA"], settings.aggregation, SAMPLES)


@pytest.mark.parametrize(
    "settings", SETTINGS, ids=lambda s: f"{s.ratio}-{s.aggregation}-{s.kl_estimator}"
)
def test_loss_and_statistics_match_loops(batch, settings):
    samples = token_losses(batch, settings)
    if settings.aggregation == "token":
        expected = np.mean([loss for s in samples for loss in s["loss"]])
    else:
        expected = np.mean([np.mean(s["loss"]) for s in samples])
    loss, stats = run(batch, settings, count(batch, settings))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)

    def every(name: str) -> list:
        return [value for s in samples for value in s[name]]

    assert stats.tokens == len(every("loss"))
    assert stats.clipped == sum(every("clipped")) > 0
    np.testing.assert_allclose(stats.kl, sum(every("kl")), rtol=1e-4)
    np.testing.assert_allclose(stats.ratio_max, max(every("ratio")), rtol=1e-5)
    gap = np.nanmax(np.abs(batch["logp_RA"] - batch["old_logp_RA"]))
    np.testing.assert_allclose(stats.logp_gap, gap, rtol=1e-6)


@pytest.mark.parametrize("aggregation", ["token", "sequence"])
def test_micro_batches_add_up_to_the_batch(batch, aggregation):
    settings = PolicySettings(ratio="sequence", aggregation=aggregation, kl_coef=0.1)
    normaliser = count(batch, settings)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def gradient(logp_RA, rest):
        return run({**rest, "logp_RA": logp_RA}, settings, normaliser)

    def part(rows: slice):
        rest = {name: x[rows] for name, x in batch.items()}
        return gradient(rest.pop("logp_RA"), rest)

    (whole, stats), whole_RA = part(slice(None))
    (first, stats_1), first_RA = part(slice(0, 1))
    (second, stats_2), second_RA = part(slice(1, None))
    np.testing.assert_allclose(first + second, whole, rtol=1e-6)
    np.testing.assert_allclose(np.concatenate([first_RA, second_RA]), whole_RA, rtol=1e-6)
    joins = dict.fromkeys(("tokens", "clipped", "kl"), np.add)
    joins |= dict.fromkeys(("ratio_max", "logp_gap"), np.maximum)
    for name, join in joins.items():
        joined = join(getattr(stats_1, name), getattr(stats_2, name))
        np.testing.assert_allclose(joined, getattr(stats, name), rtol=1e-6)


@pytest.mark.parametrize("ratio", ["token", "sequence", "sequence_mean"])
def test_padding_has_no_gradient_and_no_nan(batch, ratio):
    settings = PolicySettings(ratio=ratio, kl_coef=0.1, kl_estimator="k3")
    gradient = jax.jit(jax.grad(lambda x: run({**batch, "logp_RA": x}, settings, 1.0)[0]))
    gradient_RA = np.asarray(gradient(batch["logp_RA"]))
    assert np.isfinite(gradient_RA).all()
    assert not gradient_RA[batch["weight_RA"] == 0].any()


def test_on_policy_gradient_is_the_advantage_share(batch):
    """At ratio 1 the clip is inactive and REINFORCE's gradient remains."""
    on_policy = {**batch, "old_logp_RA": batch["logp_RA"], "ref_logp_RA": None}
    settings = PolicySettings()
    normaliser = count(batch, settings)

    def loss(logp_RA):
        return run({**on_policy, "logp_RA": logp_RA}, settings, normaliser)[0]

    expected_RA = np.where(batch["weight_RA"] > 0, -batch["advantage_RA"], 0) / normaliser
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(batch["logp_RA"]), expected_RA, rtol=1e-6)


def test_a_vanishing_old_probability_gives_no_nan(batch):
    far = {
        **batch,
        "old_logp_RA": batch["logp_RA"] - 500,
        "advantage_RA": np.zeros_like(batch["logp_RA"]),
    }
    loss, stats = run(far, PolicySettings(ratio="sequence"), 1.0)
    assert loss == 0
    assert np.isfinite(stats.ratio_max)


def test_an_empty_batch_has_loss_zero(batch):
    empty = {**batch, "weight_RA": np.zeros_like(batch["weight_RA"])}
    settings = PolicySettings(aggregation="sequence")
    loss, stats = run(empty, settings, count(empty, settings))
    assert loss == stats.tokens == stats.ratio_max == 0
    assert supervised_loss(batch["logp_RA"], empty["weight_RA"], 0.0)[0] == 0


def test_a_kl_without_reference_is_refused(batch):
    with pytest.raises(ValueError, match="needs ref_logp_RA"):
        run({**batch, "ref_logp_RA": None}, PolicySettings(kl_coef=0.1), 1.0)


def test_misspelt_settings_name_the_nearest():
    with pytest.raises(UserError, match="did you mean 'sequence_mean'"):
        PolicySettings(ratio="sequence-mean")
    with pytest.raises(UserError, match=r"objective\.kl_estimator: no 'k4'"):
        dataclasses.replace(PolicySettings(), kl_estimator="k4")


def test_supervised_loss_matches_loops(batch):
    nll, hits, tokens = 0.0, 0.0, 0
    for r, a in np.argwhere(batch["weight_RA"] > 0):
        nll -= float(batch["logp_RA"][r, a])
        hits += np.exp(float(batch["logp_RA"][r, a]))
        tokens += 1
    loss, stats = supervised_loss(batch["logp_RA"], batch["weight_RA"], np.float32(tokens))
    np.testing.assert_allclose(loss, nll / tokens, rtol=1e-6)
    np.testing.assert_allclose(
        [stats.tokens, stats.nll, stats.hits], [tokens, nll, hits], rtol=1e-6
    )
