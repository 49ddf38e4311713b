"""Proposition 3.1, Theorem 3.2 and Theorem 3.3, run through the project's own objectives.

One state and a tabular softmax policy. A group that holds every action as often as the policy
draws it has the population's mean and variance, so `advantages` and `policy_loss` give exact
expectations instead of estimates. Float64 throughout.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivotrl_jax.objectives import (
    PolicySettings,
    Recipe,
    advantages,
    compile_recipe,
    group_statistics,
    policy_loss,
    rewards,
)

COUNTS = np.array([7, 1, 3, 12, 2, 5, 1, 4, 9])  # how often a group of 44 holds each action
BETAS = [0.3, 1.0, 3.0]
NO_KL = PolicySettings()


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, static_argnames="settings")
def expected_loss(
    logits: jax.Array,
    actions_K: np.ndarray,
    advantage_K: jax.Array,
    weight_K: jax.Array,
    settings: PolicySettings = NO_KL,
    ref_logits: jax.Array | None = None,
) -> jax.Array:
    """On-policy `policy_loss` of one-token actions, each weighted by how often it is drawn."""
    logp_RA = jax.nn.log_softmax(logits)[None, actions_K]
    ref_logp_RA = None if ref_logits is None else jax.nn.log_softmax(ref_logits)[None, actions_K]
    sample_RA = np.arange(len(actions_K))[None]
    loss, _ = policy_loss(
        logp_RA,
        jax.lax.stop_gradient(logp_RA),
        ref_logp_RA,
        jnp.asarray(advantage_K)[None],
        jnp.asarray(weight_K)[None],
        sample_RA,
        normaliser=jnp.asarray(1.0),
        settings=settings,
        samples=len(actions_K),
    )
    return loss


loss_gradient = jax.jit(jax.grad(expected_loss), static_argnames="settings")


def group(reward_V: np.ndarray, normalisation: str) -> tuple[np.ndarray, jax.Array, jax.Array]:
    """The actions of the population group, their advantages and their weights."""
    actions_K = np.repeat(np.arange(len(COUNTS)), COUNTS)
    rewards_PK = reward_V[actions_K][None]
    advantage_PK = advantages(
        rewards_PK, np.ones_like(rewards_PK, bool), normalisation=normalisation, epsilon=0.0
    )
    return actions_K, advantage_PK[0], np.full(len(actions_K), 1 / len(actions_K))


def variance(reward_V: np.ndarray) -> float:
    rewards_PK = np.repeat(reward_V, COUNTS)[None]
    return float(group_statistics(rewards_PK, np.ones_like(rewards_PK, bool)).variance_P[0])


def natural_norm(gradient_V: jax.Array, pi_V: np.ndarray) -> float:
    """sqrt(n F n) with n = F+ g and the Fisher matrix F of a softmax policy's logits."""
    fisher_VV = np.diag(pi_V) - np.outer(pi_V, pi_V)
    natural_V = np.linalg.pinv(fisher_VV) @ np.asarray(gradient_V)
    return float(np.sqrt(natural_V @ fisher_VV @ natural_V))


def graded_reward() -> np.ndarray:
    return np.random.default_rng(5).random(len(COUNTS))


def binary_reward() -> np.ndarray:
    return np.float64(np.arange(len(COUNTS)) % 3 == 0)


PI_V = COUNTS / COUNTS.sum()
REWARDS = pytest.mark.parametrize("reward_V", [graded_reward(), binary_reward()])


@pytest.mark.parametrize("normalisation", ["std", "mean", "leave_one_out"])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1])
def test_proposition_3_1_equal_rewards_have_no_policy_gradient(reward, normalisation):
    actions_K, advantage_K, weight_K = group(np.full(len(COUNTS), reward), normalisation)
    assert not np.any(advantage_K)
    logits, ref_logits = np.log(PI_V), np.zeros(len(COUNTS))
    assert not np.any(loss_gradient(logits, actions_K, advantage_K, weight_K))

    # With a KL, its term is all that remains.
    settings = PolicySettings(kl_coef=0.5)
    gradient_V = loss_gradient(logits, actions_K, advantage_K, weight_K, settings, ref_logits)
    np.testing.assert_allclose(gradient_V, kl_gradient(logits, ref_logits) * 0.5, atol=1e-14)
    assert np.linalg.norm(gradient_V) > 0.01


@pytest.mark.parametrize("successes", range(1, 16))
def test_proposition_3_1_mixed_binary_groups(successes):
    rewards_PK = np.float64(np.arange(16) < successes)[None]
    valid_PK = np.ones((1, 16), bool)
    got_K = advantages(rewards_PK, valid_PK, normalisation="std", epsilon=1e-12)[0]
    p = successes / 16
    np.testing.assert_allclose(got_K[:successes], np.sqrt((1 - p) / p), rtol=1e-10)
    np.testing.assert_allclose(got_K[successes:], -np.sqrt(p / (1 - p)), rtol=1e-10)
    np.testing.assert_allclose([got_K.sum(), (got_K**2).sum()], [0, 16], atol=1e-9)


@REWARDS
def test_theorem_3_2_natural_gradient_norm_is_the_reward_deviation(reward_V):
    actions_K, advantage_K, weight_K = group(reward_V, "mean")
    gradient_V = loss_gradient(np.log(PI_V), actions_K, advantage_K, weight_K)
    np.testing.assert_allclose(
        natural_norm(gradient_V, PI_V), np.sqrt(variance(reward_V)), rtol=1e-10
    )


@REWARDS
def test_std_normalisation_makes_the_natural_norm_one(reward_V):
    """Why, under GRPO, variance decides which groups speak but not how loudly."""
    actions_K, advantage_K, weight_K = group(reward_V, "std")
    gradient_V = loss_gradient(np.log(PI_V), actions_K, advantage_K, weight_K)
    np.testing.assert_allclose(natural_norm(gradient_V, PI_V), 1, rtol=1e-10)


@REWARDS
@pytest.mark.parametrize("beta", BETAS)
def test_theorem_3_2_fisher_speed_of_the_regularised_path(beta, reward_V):
    """The policy at `beta` is pi_V; the path is z(b) = log pi_V + r (1/b - 1/beta)."""
    step = 1e-5 * beta

    def log_pi(b: float) -> np.ndarray:
        return np.asarray(jax.nn.log_softmax(np.log(PI_V) + reward_V * (1 / b - 1 / beta)))

    speed_V = (log_pi(beta + step) - log_pi(beta - step)) / (2 * step)
    speed = np.sqrt(np.sum(PI_V * speed_V**2))
    np.testing.assert_allclose(speed, np.sqrt(variance(reward_V)) / beta**2, rtol=1e-7)


@REWARDS
@pytest.mark.parametrize("beta", BETAS)
def test_theorem_3_2_grpo_score_along_the_path(beta, reward_V):
    arrays = group(reward_V, "std")

    @jax.jit
    @jax.grad
    def score(b: float) -> jax.Array:
        return expected_loss(np.log(PI_V) + reward_V * (1 / b - 1 / beta), *arrays)

    np.testing.assert_allclose(abs(score(beta)), np.sqrt(variance(reward_V)) / beta**2, rtol=1e-10)


def test_theorem_3_2_binary_deviation_peaks_at_one_half():
    rewards_PK = np.float64(np.arange(16)[None] < np.arange(17)[:, None])
    stats = group_statistics(rewards_PK, np.ones_like(rewards_PK, bool))
    np.testing.assert_allclose(stats.variance_P, stats.mean_P * (1 - stats.mean_P), atol=1e-15)
    assert np.argmax(stats.variance_P) == 8
    np.testing.assert_array_equal(np.flatnonzero(stats.variance_P == 0), [0, 16])


# Theorem 3.3: actions 0, 3 and 6 are acceptable, 3 is the expert's.
ACTIONS_V = np.arange(len(COUNTS))
CRITERIA_PKC = np.stack([ACTIONS_V % 3 == 0, ACTIONS_V == 3], axis=1)[None].astype(np.float64)
NAMES = ("equivalent", "exact")
FUNCTIONAL = Recipe("functional", accept=(("equivalent", 1.0),))
STRICT = Recipe("strict", accept=(("exact", 1.0),))


def verified(recipe: Recipe) -> jax.Array:
    """The reward of every action."""
    valid_PK = np.ones((1, len(COUNTS)), bool)
    return rewards(CRITERIA_PKC, valid_PK, compile_recipe(recipe, NAMES))[0]


@jax.jit
def kl(logits: jax.Array, ref_logits: jax.Array) -> jax.Array:
    logp_V = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(logp_V) * (logp_V - jax.nn.log_softmax(ref_logits)))


kl_gradient = jax.jit(jax.grad(kl))


@functools.partial(jax.jit, static_argnames=("beta", "estimator"))
def regularised(logits: jax.Array, reward_V: jax.Array, beta: float, estimator: str) -> jax.Array:
    """L = -E[r] + beta KL(pi || pi_0) as `policy_loss` computes it on the policy's own actions."""
    settings = PolicySettings(kl_coef=beta, kl_estimator=estimator)
    weight_V = jax.lax.stop_gradient(jax.nn.softmax(logits))
    return expected_loss(logits, ACTIONS_V, reward_V, weight_V, settings, np.log(PI_V))


regularised_gradient = jax.jit(jax.grad(regularised), static_argnames=("beta", "estimator"))


@functools.partial(jax.jit, static_argnames="beta")
def natural_step(logits: jax.Array, reward_V: jax.Array, beta: float) -> jax.Array:
    """A natural-gradient step of length 1/beta on `policy_loss`; F n = g is solved by g / pi."""
    gradient_V = regularised_gradient(logits, reward_V, beta, "k2")
    return logits - gradient_V / jax.nn.softmax(logits) / beta


def optimum(recipe: Recipe, beta: float) -> np.ndarray:
    """Where training ends, from a random start."""
    start_V = np.random.default_rng(0).normal(size=len(COUNTS))
    return np.asarray(jax.nn.softmax(natural_step(start_V, verified(recipe), beta)))


def projected_mass(beta: float) -> tuple[np.ndarray, float, float]:
    inside_V = np.asarray(verified(FUNCTIONAL)) > 0
    rho = PI_V[inside_V].sum()
    return inside_V, rho, rho * np.exp(1 / beta) / (1 - rho + rho * np.exp(1 / beta))


def test_theorem_3_3_gradients_of_the_three_kl_estimators():
    """k2 has eq. 7's gradient, k3 that of the reversed KL, k1 none."""
    logits, ref_logits = np.random.default_rng(1).normal(size=len(COUNTS)), np.log(PI_V)
    zeros = np.zeros(len(COUNTS))
    got = {k: regularised_gradient(logits, zeros, 1.0, k) for k in ("k1", "k2", "k3")}
    reverse_V = jax.jit(jax.grad(kl, argnums=1))(ref_logits, logits)
    np.testing.assert_allclose(got["k1"], 0, atol=1e-14)
    np.testing.assert_allclose(got["k2"], kl_gradient(logits, ref_logits), atol=1e-14)
    np.testing.assert_allclose(got["k3"], reverse_V, atol=1e-14)


@pytest.mark.parametrize("beta", BETAS)
def test_theorem_3_3_training_ends_at_the_projection(beta):
    inside_V, rho, mass = projected_mass(beta)
    pi_V = optimum(FUNCTIONAL, beta)
    np.testing.assert_allclose(pi_V[inside_V].sum(), mass, rtol=1e-12)
    assert mass > rho
    for part_V in (inside_V, ~inside_V):
        np.testing.assert_allclose(
            pi_V[part_V] / pi_V[part_V].sum(), PI_V[part_V] / PI_V[part_V].sum(), atol=1e-12
        )
    gradient_V = regularised_gradient(np.log(pi_V), verified(FUNCTIONAL), beta, "k2")
    np.testing.assert_allclose(gradient_V, 0, atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
def test_theorem_3_3_minimum(beta):
    _, rho, mass = projected_mass(beta)
    reward_V = verified(FUNCTIONAL)
    pi_V = optimum(FUNCTIONAL, beta)
    # k1 is unbiased: weighted by the policy it is the KL itself.
    lowest = regularised(np.log(pi_V), reward_V, beta, "k1")
    np.testing.assert_allclose(lowest, -beta * np.log(1 - rho + rho * np.exp(1 / beta)), rtol=1e-12)
    divergence = regularised(np.log(pi_V), np.zeros(len(COUNTS)), 1.0, "k1")
    expected = mass * np.log(mass / rho) + (1 - mass) * np.log((1 - mass) / (1 - rho))
    np.testing.assert_allclose(divergence, expected, rtol=1e-10, atol=1e-12)
    others = np.random.default_rng(2).normal(size=(50, len(COUNTS)))
    assert jnp.all(jax.vmap(lambda z_V: regularised(z_V, reward_V, beta, "k1"))(others) > lowest)


@pytest.mark.parametrize("beta", BETAS)
def test_theorem_3_3_no_policy_of_that_mass_is_nearer(beta):
    inside_V, _, mass = projected_mass(beta)
    divergence = functools.partial(
        regularised, reward_V=np.zeros(len(COUNTS)), beta=1.0, estimator="k1"
    )
    nearest = divergence(np.log(optimum(FUNCTIONAL, beta)))
    others = np.random.default_rng(6).dirichlet(np.ones(len(COUNTS)), 50)
    for pi_V in others:
        for part_V, share in ((inside_V, mass), (~inside_V, 1 - mass)):
            pi_V[part_V] *= share / pi_V[part_V].sum()
    assert jnp.all(jax.vmap(divergence)(np.log(others)) > nearest)


@pytest.mark.parametrize("beta", BETAS)
def test_strict_reward_pushes_valid_alternatives_down(beta):
    """The contrast: exact match divides another valid action's odds by e^(1/beta)."""
    functional_V, strict_V = optimum(FUNCTIONAL, beta), optimum(STRICT, beta)
    for alternative in (0, 6):
        before = PI_V[alternative] / PI_V[3]
        np.testing.assert_allclose(functional_V[alternative] / functional_V[3], before, rtol=1e-12)
        np.testing.assert_allclose(
            strict_V[alternative] / strict_V[3], before * np.exp(-1 / beta), rtol=1e-12
        )
