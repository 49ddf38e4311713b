"""The fused objective against the composed one: loss, statistics and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.grpo import AdvantageSettings, Groups, GrpoStats, ScoredTokens, fused, grpo, score
from pivotrl_jax.errors import UserError
from pivotrl_jax.objectives import PolicySettings, loss_count

ROWS, PIVOTS, SAMPLES, WIDTH, VOCAB, LENGTH = 2, 3, 4, 16, 103, 45


def operands(equal_groups: bool = False) -> tuple:
    """Hidden states, head, tokens and groups; a third of the row is padding, anywhere in it."""
    rng = np.random.default_rng(0)
    floats = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    hidden_RAD, head_VD = floats(ROWS, LENGTH, WIDTH), floats(VOCAB, WIDTH)
    labels_RA = jnp.asarray(rng.integers(VOCAB, size=(ROWS, LENGTH)))
    logp_RA = score(hidden_RAD, head_VD, labels_RA).logp_T
    weight_RA = jnp.asarray(rng.random((ROWS, LENGTH)) < 0.67, jnp.float32)
    # Padding may hold anything.
    junk_RA = jnp.where(weight_RA > 0, 0, jnp.nan)
    tokens = ScoredTokens(
        labels_RA=labels_RA,
        weight_RA=weight_RA,
        sample_RA=jnp.asarray(np.sort(rng.integers(PIVOTS * SAMPLES, size=(ROWS, LENGTH)))),
        old_logp_RA=logp_RA + 0.3 * floats(ROWS, LENGTH) + junk_RA,
        ref_logp_RA=logp_RA + 0.1 * floats(ROWS, LENGTH) + junk_RA,
    )
    reward_RPK = jnp.asarray(rng.integers(2, size=(ROWS, PIVOTS, SAMPLES)), jnp.float32)
    if equal_groups:
        reward_RPK = reward_RPK.at[:, 1:].set(1.0)
    shape = (2, ROWS, PIVOTS, SAMPLES)
    valid_RPK, malformed_RPK = jnp.asarray(rng.random(shape) < [[[[0.9]]], [[[0.2]]]])
    return hidden_RAD, head_VD, tokens, Groups(reward_RPK, valid_RPK, malformed_RPK)


@functools.partial(jax.jit, static_argnames=("policy", "advantage", "implementation"))
def value_and_gradients(
    hidden_RAD: jax.Array,
    head_VD: jax.Array,
    tokens: ScoredTokens,
    groups: Groups,
    policy: PolicySettings,
    advantage: AdvantageSettings,
    implementation: str,
) -> tuple[tuple[jax.Array, GrpoStats], tuple[jax.Array, jax.Array]]:
    count = loss_count(tokens.weight_RA, tokens.sample_RA, policy.aggregation, PIVOTS * SAMPLES)

    def loss(hidden_RAD: jax.Array, head_VD: jax.Array) -> tuple[jax.Array, GrpoStats]:
        return grpo(
            hidden_RAD, head_VD, tokens, groups, count, policy, advantage,
            temperature=0.8, implementation=implementation,
        )  # fmt: skip

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(hidden_RAD, head_VD)


CASES = [
    (PolicySettings(kl_coef=0.1), AdvantageSettings()),
    (PolicySettings(ratio="sequence_mean", aggregation="sequence"), AdvantageSettings("mean")),
    (
        PolicySettings(clip_low=0.1, clip_high=0.3, kl_coef=0.01, kl_estimator="k3"),
        AdvantageSettings("leave_one_out", malformed_penalty=-5.0),
    ),
]


@pytest.mark.parametrize(("policy", "advantage"), CASES, ids=["kl", "gspo", "penalty"])
def test_the_fused_op_equals_the_composed_one(policy, advantage):
    hidden, head, tokens, groups = operands()
    if not policy.kl_coef:
        tokens = tokens.replace(ref_logp_RA=None)
    found, composed = (
        value_and_gradients(hidden, head, tokens, groups, policy, advantage, implementation)
        for implementation in ("fused", "reference")
    )
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(composed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6)
    assert all(float(jnp.abs(g).max()) > 1e-4 for g in composed[1])


def test_an_empty_batch_has_loss_and_gradient_0():
    hidden, head, tokens, groups = operands()
    tokens = tokens.replace(weight_RA=jnp.zeros_like(tokens.weight_RA))
    (loss, stats), grads = value_and_gradients(
        hidden, head, tokens, groups, *CASES[0], implementation="fused"
    )
    assert loss == stats.entropy == stats.policy.tokens == 0
    assert all((np.asarray(g) == 0).all() for g in grads)


def test_the_head_sees_only_what_matters():
    """Hidden states of padding are poisoned going forward, those of equal groups coming back."""
    hidden, head, tokens, groups = operands(equal_groups=True)
    policy, advantage = PolicySettings(), AdvantageSettings()
    tokens = tokens.replace(ref_logp_RA=None)
    sizes: list[int] = []

    def counting(hidden: jax.Array, head: jax.Array, labels: jax.Array):
        jax.debug.callback(lambda: sizes.append(labels.shape[1]))
        return score(hidden, head, labels)

    def loss(hidden: jax.Array) -> jax.Array:
        return fused.grpo(
            hidden, head, tokens, groups, jnp.float32(1), policy, advantage, counting
        )[0]

    pull = jax.vjp(loss, hidden)[1]
    jax.effects_barrier()
    assert sizes == [fits(tokens.weight_RA > 0)]
    matters = (tokens.weight_RA > 0) & (tokens.sample_RA < SAMPLES)
    d_hidden = pull(jnp.float32(1))[0]
    jax.effects_barrier()
    assert sizes[1] <= fits(matters) < sizes[0]
    assert (np.asarray(d_hidden)[~np.asarray(matters)] == 0).all()
    assert np.abs(d_hidden).max() > 0


def fits(matters_RA: jax.Array) -> int:
    """The number of tokens per row that the op takes where these matter."""
    longest, quarter = int(matters_RA.sum(axis=1).max()), LENGTH / fused.PARTS
    return next(
        size
        for size in (int(np.ceil(quarter * part)) for part in range(1, fused.PARTS + 1))
        if size >= longest
    )


def test_an_unknown_implementation_is_refused():
    hidden, head, tokens, groups = operands()
    with pytest.raises(UserError, match="no implementation 'xla'"):
        grpo(hidden, head, tokens, groups, 1.0, *CASES[0], implementation="xla")
