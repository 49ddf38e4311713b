"""Policies with adapters against the dense matrices that they stand for, written out in NumPy."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import ModelConfig, Params, hidden, logits, shapes
from pivotrl_jax.models.cache import (
    branch_cache,
    decode_step,
    extend,
    prefill,
    trunk_cache,
    unstack,
)
from pivotrl_jax.models.lora import (
    TARGETS,
    Adapters,
    LoraSettings,
    LowRank,
    adapter_axes,
    adapter_shapes,
    attach,
    detach,
    init_adapters,
    merge,
    policy_of,
    project,
    rounded_projections,
)
from pivotrl_jax.models.presets import QWEN_2_5_0_5B, QWEN_3_30B_A3B, shrink
from pivotrl_jax.trees.tree import causal

small = partial(shrink, vocab=64, width=32, layers=2, kv_heads=2, head_dim=16, ffn=48)
CFG, EXPERTS = small(QWEN_2_5_0_5B), small(QWEN_3_30B_A3B)
LORA = LoraSettings(rank=3, alpha=6.0)
SCALE = 2.0
PRODUCTS = {
    "q": "ndz,nzhge->ndhge",
    "k": "ndz,nzhe->ndhe",
    "v": "ndz,nzhe->ndhe",
    "o": "nhgez,nzd->nhged",
    "gate": "ndz,nzf->ndf",
    "up": "ndz,nzf->ndf",
    "down": "nfz,nzd->nfd",
}
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
nearly = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
next_logits = jax.jit(logits, static_argnums=1)


def normal(abstract: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.array(rng.normal(size=x.shape) / 4, x.dtype), abstract)


def trained(settings: LoraSettings = LORA, cfg: ModelConfig = CFG) -> Adapters:
    """Adapters that weigh as much as their base: B is not zero."""
    return normal(adapter_shapes(cfg, settings), 1)


def by_hand(base: Params, adapters: Adapters, scale: float = SCALE) -> Params:
    """W + scale * A B of every target."""
    dense = {
        target: getattr(base.layers, target)
        + scale * np.einsum(PRODUCTS[target], np.array(own.a), np.array(own.b))
        for target, own in adapters.factors.items()
    }
    return base.replace(layers=base.layers.replace(**dense))


@pytest.fixture(scope="module")
def base() -> Params:
    return normal(shapes(CFG), 0)


@pytest.fixture(scope="module")
def adapters() -> Adapters:
    return trained()


@pytest.fixture(scope="module")
def tokens_RT() -> jax.Array:
    return jnp.array(np.random.default_rng(2).integers(CFG.vocab, size=(2, 16)), jnp.int32)


def test_logits_are_those_of_the_dense_matrices(base, adapters, tokens_RT):
    found = next_logits(attach(base, adapters), CFG, tokens_RT)
    close(found, next_logits(by_hand(base, adapters), CFG, tokens_RT))
    assert abs(found - next_logits(base, CFG, tokens_RT)).max() > 0.5


def test_merged_parameters_are_the_dense_matrices(base, adapters):
    merged, expected = merge(attach(base, adapters)), by_hand(base, adapters)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    jax.tree.map(nearly, merged, expected)


def test_only_the_targets_are_adapted(base):
    policy = attach(base, trained(LoraSettings(rank=3, alpha=6.0, targets=("o", "down"))))
    adapted = {target for target in TARGETS if isinstance(getattr(policy.layers, target), LowRank)}
    assert adapted == {"o", "down"}
    assert policy.layers.q is base.layers.q


def test_reading_and_decoding_are_those_of_the_dense_matrices(base, adapters, tokens_RT):
    @jax.jit
    def states(params: Params) -> list[jax.Array]:
        """Final hidden states of a prefill, of a piece behind it, of a token of two branches."""
        layers = unstack(params.layers, CFG.layers)
        read, trunk, _ = prefill(params, CFG, tokens_RT)
        room = jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_slice(x, y, (0,) * x.ndim),
            trunk_cache(CFG, 2, 20),
            trunk,
        )
        places = 16 + jnp.arange(4)[None] + jnp.zeros((2, 1), int)
        pieces = (tokens_RT[:, :4], jnp.arange(2), places)
        further, trunk = extend(params, layers, CFG, *pieces, room)
        own, ones = branch_cache(CFG, 2, 2, 3), jnp.ones((2, 2), int)
        step = decode_step(
            params, layers, CFG, tokens_RT[:, :2], 0 * ones, 18 * ones, trunk, own
        )  # fmt: skip
        return [read, further, step[0]]

    for found, expected in zip(
        states(attach(base, adapters)), states(by_hand(base, adapters)), strict=True
    ):
        close(found, expected)


def test_gradients_are_those_of_the_dense_matrices(base, adapters, tokens_RT):
    """Of W + s A B with gradient G they are s G B^T and s A^T G."""

    @jax.jit
    def loss(params: Params) -> jax.Array:
        logp = jax.nn.log_softmax(logits(params, CFG, tokens_RT))
        return -jnp.take_along_axis(logp[:, :-1], tokens_RT[:, 1:, None], axis=2).mean()

    found = jax.grad(lambda own: loss(attach(base, own)))(adapters)
    dense = jax.grad(loss)(by_hand(base, adapters)).layers
    for target, own in adapters.factors.items():
        axes = PRODUCTS[target]
        a_axes, b_axes, w_axes = axes.replace("->", ",").split(",")
        gradient = np.array(getattr(dense, target))
        grad_a = SCALE * np.einsum(f"{w_axes},{b_axes}->{a_axes}", gradient, np.array(own.b))
        grad_b = SCALE * np.einsum(f"{a_axes},{w_axes}->{b_axes}", np.array(own.a), gradient)
        assert abs(grad_a).max() > 1e-4
        np.testing.assert_allclose(found.factors[target].a, grad_a, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.factors[target].b, grad_b, rtol=1e-4, atol=1e-6)


def test_the_backward_pass_keeps_one_output_of_an_adapted_projection(base, adapters, tokens_RT):
    """Not the base's part and the adapter's: as much as of the dense matrices."""

    def kept(own: Params | Adapters) -> dict[int, int]:
        """How many arrays there are with the tokens and F, or D, of all layers."""
        states = lambda own: hidden(policy_of(own, base), CFG, causal(tokens_RT), "dots")  # noqa: E731
        found = [
            leaf.shape
            for leaf in jax.tree.leaves(jax.eval_shape(lambda own: jax.vjp(states, own)[1], own))
        ]
        return {width: found.count((CFG.layers, 32, width)) for width in (CFG.ffn, CFG.width)}

    assert kept(adapters) == kept(base)
    assert min(kept(base).values()) > 0


def test_new_adapters_leave_the_policy_as_it_is(base, tokens_RT):
    adapters = jax.jit(init_adapters, static_argnums=(1, 2))(jax.random.key(0), CFG, LORA)
    inputs = {"o": CFG.heads * CFG.head_dim, "down": CFG.ffn}
    for target, own in adapters.factors.items():
        size = inputs.get(target, CFG.width)
        assert not own.b.any()
        assert 0.9 < float(abs(own.a).max()) * math.sqrt(size) <= 1
        assert abs(float(own.a.mean())) < 0.1 / math.sqrt(size)
    found = next_logits(attach(base, adapters), CFG, tokens_RT)
    np.testing.assert_array_equal(found, next_logits(base, CFG, tokens_RT))


def test_detaching_undoes_attaching(base, adapters):
    parts = detach(attach(base, adapters))
    assert parts[1].scale == SCALE
    jax.tree.map(np.testing.assert_array_equal, parts, (base, adapters))
    assert detach(base) == (None, base)
    assert policy_of(base, None) is base


def test_layers_keep_their_adapters_when_they_are_taken_apart(base, adapters):
    layers = unstack(attach(base, adapters).layers, CFG.layers)
    assert isinstance(layers[1].o, LowRank)
    np.testing.assert_array_equal(layers[1].o.a, adapters.factors["o"].a[1])
    assert layers[1].q_bias.shape == base.layers.q_bias.shape[1:]


def test_scale():
    assert LoraSettings(rank=16, alpha=32).scale == 2
    assert LoraSettings(rank=16, alpha=32, rslora=True).scale == 8


def test_a_float32_adapter_works_in_the_dtype_of_a_bfloat16_base():
    one = lambda *shape: jnp.full(shape, 0.5)  # noqa: E731
    leaf = LowRank(one(4, 6).astype(jnp.bfloat16), one(4, 2), one(2, 6), 1.0)
    found = project(one(3, 4).astype(jnp.bfloat16), leaf, "td,df->tf", "float32")
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, np.full((3, 6), 2.0))


def test_decoding_rounds_matrices_and_leaves_adapters_and_norms(base, adapters):
    cfg = dataclasses.replace(CFG, matmul_precision="bfloat16")
    policy = attach(base, adapters)
    layers = rounded_projections(policy.layers, cfg)
    for target in TARGETS:
        leaf, given = getattr(layers, target), getattr(policy.layers, target)
        if isinstance(leaf, LowRank):
            np.testing.assert_array_equal(leaf.a, given.a)
            assert leaf.a.dtype == leaf.b.dtype == jnp.float32
            leaf, given = leaf.w, given.w
        np.testing.assert_array_equal(leaf, given.astype(jnp.bfloat16))
        assert leaf.dtype == jnp.bfloat16
    assert layers.attn_norm.dtype == jnp.float32
    assert rounded_projections(policy.layers, CFG) is policy.layers


def test_axes_are_those_of_the_base_and_the_rank():
    abstract, axes = adapter_shapes(CFG, LORA), adapter_axes(CFG, LORA)
    assert abstract.factors["o"].a.shape == (2, CFG.kv_heads, CFG.groups, CFG.head_dim, 3)
    assert axes.factors["o"].a == ("layers", "kv_heads", None, None, "rank")
    assert axes.factors["o"].b == ("layers", "rank", "width")
    assert axes.factors["q"].a == ("layers", "width", "rank")
    assert axes.factors["q"].b == ("layers", "rank", "kv_heads", None, None)
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype("float32")}
    assert tuple(abstract.factors) == tuple(TARGETS)


WRONG = [
    ({"rank": -1}, r"lora\.rank is -1"),
    ({"rank": 4, "alpha": 0.0}, r"lora\.alpha is 0\.0"),
    ({"rank": 4, "alpha": -1.0}, r"lora\.alpha is -1\.0"),
    ({"rank": 4, "targets": ("q", "qkv")}, r"lora\.targets has 'qkv'; choose among q, k, v, o"),
    ({"rank": 4, "targets": ()}, r"lora\.targets is empty"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_settings_that_cannot_be_are_refused_by_name(fields, message):
    with pytest.raises(UserError, match=message):
        LoraSettings(**fields)


def test_beside_experts_the_dense_projections_are_adapted():
    settings = LoraSettings(rank=3, alpha=6.0, targets=("q", "k", "v", "o"))
    base, adapters = normal(shapes(EXPERTS), 0), trained(settings, EXPERTS)
    policy = attach(base, adapters)
    jax.tree.map(np.testing.assert_array_equal, detach(policy), (base, adapters))
    jax.tree.map(nearly, merge(policy), by_hand(base, adapters))


def test_adapters_of_experts_are_refused_by_name():
    with pytest.raises(UserError, match=r"lora\.targets has 'gate', which Qwen3.* leave it out"):
        adapter_shapes(EXPERTS, LORA)
