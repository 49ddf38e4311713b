"""One token tree gives the log-probs, losses and gradients of one causal row per sample."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pivotrl_jax.models import ModelConfig, Params
from pivotrl_jax.objectives import PolicySettings, loss_count, policy_loss
from pivotrl_jax.training import token_logprobs
from pivotrl_jax.trees import TokenTree, Tree, build_row, stack

# More than one query block of attention. Trees and flat rows have one size, so that one compilation
# serves both; whole rows of padding fill the tree's.
SIZE, VOCAB = 320, 64
# (start, tokens shared with the expert, own tokens) of every sample: several pivots, mixed depths,
# actions of one token, the first and the last token of a trunk as pivots, nothing or all shared.
Samples = list[tuple[int, int, int]]
TRUNKS: dict[int, Samples] = {
    160: [(160, 0, 9), (160, 0, 1), (120, 0, 12), (120, 3, 4), (31, 5, 0), (2, 0, 1), (1, 2, 4)],
    90: [(90, 0, 1), (17, 0, 14), (17, 3, 0), (16, 8, 1)],
}
WIDTH = 96  # of the list of a row's scored tokens
SETTINGS = PolicySettings(kl_coef=0.1, aggregation="sequence")
SAMPLES = 11


class Batch(NamedTuple):
    """The same samples, in rows of either kind; `of` numbers them all."""

    tree: TokenTree
    scored: np.ndarray
    weight: np.ndarray
    sample: np.ndarray
    of: np.ndarray  # number of every scored token among all tokens of all samples


def pad(parts: list[np.ndarray], width: int) -> np.ndarray:
    return np.stack([np.pad(part, (0, width - len(part))) for part in parts])


def layouts(trunks: dict[int, Samples]) -> tuple[Batch, Batch, int]:
    """The trees, the flat rows, both filled up to ROWS rows, and the number of scored tokens.

    All trees share one row where they fit it.
    """
    rng = np.random.default_rng(0)
    trees, flat, number = [], [], 0
    fit = sum(n + sum(own for *_, own in shape) for n, shape in trunks.items()) <= SIZE
    for row in [list(trunks.items())] if fit else [[item] for item in trunks.items()]:
        grown, index, first_scored = [], [], number
        first, at = 0, sum(length for length, _ in row)
        for length, shape in row:
            trunk, branches = rng.integers(VOCAB, size=length), []
            for start, shared, n in shape:
                own = rng.integers(VOCAB, size=n)
                branches.append((start + shared, own))
                on_trunk, scored = first + start + np.arange(shared), np.arange(shared + n)
                index.append(np.concatenate([on_trunk, at + np.arange(n)]))
                alone = Tree(np.concatenate([trunk[: start + shared], own]))
                flat.append((build_row([alone], SIZE), start + scored, 0 * scored, number + scored))
                at, number = at + n, number + shared + n
            grown.append(Tree(trunk, branches))
            first += length
        sample = np.repeat(np.arange(len(index)), [len(own) for own in index])
        of = first_scored + np.arange(number - first_scored)
        trees.append((build_row(grown, SIZE), np.concatenate(index), sample, of))
    nothing = np.zeros(0, int)
    empty = [(build_row([], SIZE), nothing, nothing, nothing)]
    fill = lambda found: join(found + empty * (ROWS - len(found)))  # noqa: E731
    return fill(trees), fill(flat), number


def join(rows: list[tuple]) -> Batch:
    trees, index, sample, of = zip(*rows, strict=True)
    weight = [np.ones(len(own), np.float32) for own in index]
    return Batch(stack(trees), *(pad(list(x), WIDTH) for x in (index, weight, sample, of)))


ROWS = 11
MOST = 128  # scored tokens of all samples
TREES, FLAT, COUNT = layouts(TRUNKS)


# Long rows: what takes longer to compile runs in less.
@partial(
    jax.jit,
    static_argnames=("cfg", "remat"),
    compiler_options={"xla_backend_optimization_level": 1},
)
def loss_and_gradients(
    params: Params, cfg: ModelConfig, batch: Batch, remat: str
) -> tuple[tuple[jax.Array, jax.Array], Params]:
    """The policy loss, the log-prob of every scored token, and the gradients."""
    rng = np.random.default_rng(1)
    advantage = jnp.asarray(rng.normal(size=MOST), jnp.float32)[batch.of]
    drift, gap = jnp.asarray(rng.normal(size=(2, MOST)) * 0.1, jnp.float32)[:, batch.of]
    count = loss_count(batch.weight, batch.sample, SETTINGS.aggregation, SAMPLES)

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        logp = token_logprobs(params, cfg, batch.tree, batch.scored, remat=remat).logp_T
        fixed = jax.lax.stop_gradient(logp)
        value, _ = policy_loss(
            logp, fixed + drift, fixed + gap, advantage, batch.weight, batch.sample,
            count, SETTINGS, SAMPLES,
        )  # fmt: skip
        return value, logp

    return jax.value_and_grad(loss, has_aux=True)(params)


def deviation(ours: jax.Array, theirs: jax.Array) -> float:
    return float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))


def test_tree_equals_flat_rows(family):
    flat_grads = assert_equal(family, "dots", TREES, FLAT, COUNT)
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(flat_grads)) > 1e-4


def assert_equal(family: Any, remat: str, trees: Batch, flat: Batch, count: int) -> Params:
    cfg, params = family.cfg, family.params
    with jax.default_matmul_precision("highest"):
        (loss, logp), grads = loss_and_gradients(params, cfg, trees, remat)
        (flat_loss, flat_logp), flat_grads = loss_and_gradients(params, cfg, flat, remat)
    assert loss == pytest.approx(float(flat_loss), rel=1e-5)
    by_token, flat_by_token = np.zeros((2, count))
    for batch, values, out in ((trees, logp, by_token), (flat, flat_logp, flat_by_token)):
        valid = batch.weight > 0
        out[batch.of[valid]] = np.asarray(values)[valid]
    np.testing.assert_allclose(by_token, flat_by_token, rtol=1e-5)
    far = jax.tree.map(deviation, grads, flat_grads)
    assert max(jax.tree.leaves(far)) < 1e-5, far
    return flat_grads


@st.composite
def forests(draw: st.DrawFn) -> dict[int, Samples]:
    """Up to two trunks with up to five samples each, of 1 to 9 tokens; none to all are shared."""
    found = {}
    for length in draw(st.lists(st.integers(10, 240), min_size=1, max_size=2, unique=True)):
        tokens = st.integers(0, 4)
        shares = st.tuples(tokens, st.integers(0, 5)).filter(any)
        sample = st.tuples(st.integers(1, length - 4), shares).map(lambda s: (s[0], *s[1]))
        found[length] = draw(st.lists(sample, min_size=1, max_size=5))
    return found


@settings(max_examples=4)
@given(forest=forests())
def test_any_forest_equals_its_flat_rows(family, forest):
    # The other remat, but for experts, whose programs take longest to compile.
    assert_equal(family, "dots" if family.cfg.experts else "full", *layouts(forest))


def test_the_comparison_notices_one_token_seen_too_many(family):
    """A sample that sees one token of its trunk beyond its pivot."""
    cfg, params = family.cfg, family.params
    leak = (TREES.tree.segments == 3) & (TREES.tree.prefix == 120)
    leaky = TREES._replace(tree=TREES.tree.replace(prefix=TREES.tree.prefix + leak))
    with jax.default_matmul_precision("highest"):
        (_, logp), grads = loss_and_gradients(params, cfg, TREES, "dots")
        (_, leaked), leaked_grads = loss_and_gradients(params, cfg, leaky, "dots")
    assert deviation(leaked, logp) > 1e-4
    assert min(jax.tree.leaves(jax.tree.map(deviation, leaked_grads, grads))) > 1e-4
