"""Decode attention of slots that share a trunk, against the dense form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from kernels.backend import on_mesh
from kernels.tree_decode import pallas, tree_decode, write
from kernels.tree_decode import xla as xla_form
from kernels.tree_decode.api import AXES
from kernels.tree_decode.blocks import keys_per_block
from pivotrl_jax.errors import UserError
from pivotrl_jax.parallel import MeshSettings, make_mesh, spec

ROWS, SLOTS, HEADS, GROUPS, WIDTH, TRUNK, OWN = 3, 4, 2, 3, 16, 45, 7
KEYS = 16  # tokens per block: three blocks, the last of them not full
START = jnp.asarray([[45, 1, 17, 16], [3, 12, 0, 16], [0, 0, 0, 0]])
# The last slot of the second row idles: it has drawn nothing yet.
STEP = jnp.asarray([[0, 6, 3, 1], [5, 0, 2, -1], [6, 0, 3, 1]])
ALL = jnp.zeros_like(START)  # every slot sees from its first token on
WINDOWS = [None, 1, 8]
Sinks = tuple[jax.Array, ...]  # one array or none
SINKS = jnp.asarray([[0.0, 3.0, -9.0], [1.0, -1.0, 6.0]])


def operands(dtype: jnp.dtype = jnp.float32) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    trunk, own = (ROWS, HEADS, TRUNK, WIDTH), (ROWS, SLOTS, HEADS, OWN, WIDTH)
    trunk_k, own_k = (ROWS, HEADS, WIDTH, TRUNK), (ROWS, SLOTS, HEADS, WIDTH, OWN)
    shapes = [(ROWS, SLOTS, HEADS, GROUPS, WIDTH), trunk_k, trunk, own_k, own]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def interpreted(*arrays: jax.Array, first: jax.Array = ALL, sinks: Sinks = ()) -> jax.Array:
    return pallas.tree_decode(*arrays, START, STEP, first, *sinks, keys=KEYS, interpret=True)


def in_blocks(*arrays: jax.Array, first: jax.Array = ALL, sinks: Sinks = ()) -> jax.Array:
    return xla_form.tree_decode(*arrays, START, STEP, first, *sinks, keys=KEYS)


def at_once(*arrays: jax.Array, first: jax.Array = ALL, sinks: Sinks = ()) -> jax.Array:
    return xla_form.tree_decode(*arrays, START, STEP, first, *sinks, keys=TRUNK)


FORMS = pytest.mark.parametrize(
    "decode", [at_once, in_blocks, interpreted], ids=["at_once", "in_blocks", "pallas"]
)
reference = functools.partial(tree_decode, implementation="reference")


def numpy_decode(q, trunk_k, trunk_v, own_k, own_v, start, step, window, sinks) -> np.ndarray:
    """One query at a time, of whose sequence the last `window` tokens count, and its sink."""
    out = np.zeros(q.shape)
    for r, b, h, g in np.ndindex(*q.shape[:4]):
        k = np.concatenate(
            [trunk_k[r, h, :, : start[r, b]].T, own_k[r, b, h, :, : step[r, b] + 1].T]
        )
        v = np.concatenate([trunk_v[r, h, : start[r, b]], own_v[r, b, h, : step[r, b] + 1]])
        k, v = (x[-window:] if window else x for x in (k, v))
        scores = k @ q[r, b, h, g] / np.sqrt(q.shape[-1])
        weights = np.exp(scores)
        out[r, b, h, g] = weights @ v / (weights.sum() + (0 if sinks is None else sinks[h, g]))
    return out


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("sinks", [None, SINKS], ids=["", "sinks"])
def test_the_dense_form_is_one_softmax_per_query(window, sinks):
    arrays = operands()
    step = jnp.maximum(STEP, 0)
    exact = numpy_decode(
        *(np.asarray(x, np.float64) for x in arrays), START, step, window,
        None if sinks is None else np.exp(np.asarray(sinks)),
    )  # fmt: skip
    found = reference(*arrays, START, step, window, sinks)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


@FORMS
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("sinks", [(), (SINKS,)], ids=["", "sinks"])
def test_trunk_and_own_tokens_merge_to_the_dense_softmax(decode, window, sinks):
    arrays = operands()
    last = START + STEP  # position of each slot's token
    first = jnp.maximum(last - window + 1, 0) if window else ALL
    ours = decode(*arrays, first=first, sinks=sinks)
    dense = reference(*arrays, START, STEP, window, *sinks)
    seeing = np.asarray((START > 0) | (STEP >= 0))
    np.testing.assert_allclose(ours[seeing], dense[seeing], rtol=1e-5, atol=1e-5)
    assert bool(jnp.isfinite(ours).all())


@FORMS
def test_bfloat16_operands_accumulate_in_float32(decode):
    arrays = operands(jnp.bfloat16)
    ours = decode(*arrays)
    exact = reference(*(x.astype(jnp.float32) for x in arrays), START, STEP)
    assert ours.dtype == jnp.bfloat16
    error = jnp.linalg.norm(ours.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
    assert float(error) < 0.005


@pytest.mark.parametrize("decode", [in_blocks, interpreted], ids=["xla", "pallas"])
def test_trunk_blocks_that_no_slot_sees_are_skipped(decode):
    """The second row sees 16 tokens: one block. NaN in the others would spread: 0 * NaN is NaN."""
    q, trunk_k, trunk_v, own_k, own_v = operands()
    poisoned = [
        trunk_k.at[1, :, :, KEYS:].set(jnp.nan).at[2].set(jnp.nan),
        trunk_v.at[1, :, KEYS:].set(jnp.nan).at[2].set(jnp.nan),
    ]
    ours = decode(q, *poisoned, own_k, own_v)
    np.testing.assert_array_equal(ours, decode(q, trunk_k, trunk_v, own_k, own_v))
    seen_after_all = trunk_v.at[0, :, 40].set(jnp.nan)
    assert bool(jnp.isnan(decode(q, trunk_k, seen_after_all, own_k, own_v)).any())


@pytest.mark.parametrize("decode", [in_blocks, interpreted], ids=["xla", "pallas"])
def test_trunk_blocks_before_all_windows_are_skipped(decode):
    """The first row's slots see from place 40 on, the second one's see nothing of the trunk."""
    q, trunk_k, trunk_v, own_k, own_v = operands()
    first = jnp.asarray([[40, 45, 45, 45], [3, 12, 0, 16], [0, 0, 0, 0]])
    poisoned = [
        trunk_k.at[0, :, :, : TRUNK - KEYS].set(jnp.nan).at[1].set(jnp.nan),
        trunk_v.at[0, :, : TRUNK - KEYS].set(jnp.nan).at[1].set(jnp.nan),
    ]
    ours = decode(q, *poisoned, own_k, own_v, first=first)
    np.testing.assert_array_equal(ours, decode(q, trunk_k, trunk_v, own_k, own_v, first=first))


@pytest.mark.parametrize("implementation", ["xla", "pallas"])
def test_every_device_attends_for_its_own_rows_and_heads(implementation):
    arrays = [jnp.concatenate([x, x[:1]]) for x in (*operands(), START, STEP)]
    interpret = implementation == "pallas"
    decode = jax.jit(
        functools.partial(tree_decode, implementation=implementation, interpret=interpret)
    )
    alone = decode(*arrays)
    mesh = make_mesh(MeshSettings(data=2, fsdp=1, tensor=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(decode(*arrays), alone, rtol=1e-6, atol=1e-6)
        inputs = [
            jax.device_put(x, NamedSharding(mesh, spec(axes, x.shape[: len(axes)], mesh)))
            for x, axes in zip(arrays, AXES[: len(arrays)], strict=True)
        ]
        text = decode.lower(*inputs).compile().as_text()
    assert "f32[2,4,1,16,7]" in text  # own keys of two rows and one head, on each of four devices
    assert "all-gather" not in text


@pytest.mark.parametrize("implementation", ["xla", "pallas"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("slots", [SLOTS, 1])
def test_devices_that_share_a_trunk_merge_what_they_find(implementation, window, slots):
    """Each has 15 of 45 tokens of the trunk, and a third of six slots; or all see the only one."""
    q, trunk_k, trunk_v, own_k, own_v, start, step = (
        jnp.concatenate([x, x[:1]]) for x in (*operands(), START, jnp.maximum(STEP, 0))
    )
    number = jnp.arange(6) % SLOTS if slots == SLOTS else jnp.arange(1)
    q, own_k, own_v, start, step = (x[:, number] for x in (q, own_k, own_v, start, step))
    sinks = None if window is None else SINKS
    arrays = (q, trunk_k, trunk_v, own_k, own_v, start, step, window, sinks)
    decode = functools.partial(
        tree_decode, implementation=implementation, interpret=implementation == "pallas"
    )
    mesh = make_mesh(MeshSettings(fsdp=2, context=3, tensor=1), jax.devices()[:6])
    with jax.set_mesh(mesh):
        compiled = jax.jit(decode).lower(*arrays).compile()
        ours = compiled(*arrays)
    np.testing.assert_allclose(ours, reference(*arrays), rtol=1e-5, atol=1e-5)
    text = compiled.as_text()
    assert (
        f"f32[2,{HEADS},{TRUNK // 3},{WIDTH}]" in text
    )  # the values of two trunks, a third of them
    assert ("reduce-scatter" in text) == (slots == SLOTS)


def test_the_interpreted_kernel_is_reached_through_the_api():
    arrays = operands()
    ours = tree_decode(*arrays, START, STEP, implementation="pallas", interpret=True)
    np.testing.assert_allclose(ours, interpreted(*arrays), rtol=1e-5, atol=1e-5)


def test_blocks_shrink_as_queries_grow():
    sizes = [keys_per_block("TPU v5 lite", queries) for queries in (1, 128, 129, 600, 5000)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size % 128 == 0 for size in sizes)


def test_what_cannot_run_is_refused():
    with pytest.raises(UserError, match="no implementation 'pallass'"):
        tree_decode(*operands(), START, STEP, implementation="pallass")
    with pytest.raises(UserError, match="tree_decode: 'pallas' needs a TPU"):
        tree_decode(*operands(), START, STEP, implementation="pallas")


def test_every_slot_gets_its_key_and_value_in_its_own_place():
    """On a mesh too, and of an idle slot (-1) in the last place; against a loop over slots."""
    rng = np.random.default_rng(5)
    rows, slots, heads, width, size = 4, 3, 2, 4, 6
    own_k = rng.normal(size=(rows, slots, heads, width, size)).astype(np.float32)
    own_v = rng.normal(size=(rows, slots, heads, size, width)).astype(np.float32)
    k, v = rng.normal(size=(2, rows, slots, heads, width)).astype(np.float32)
    step = rng.integers(-1, size, (rows, slots)).astype(np.int32)
    wanted_k, wanted_v = own_k.copy(), own_v.copy()
    for r, b in np.ndindex(rows, slots):
        wanted_k[r, b, :, :, step[r, b]] = k[r, b]
        wanted_v[r, b, :, step[r, b]] = v[r, b]
    mesh = make_mesh(MeshSettings(2, 1, 2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        on_devices = jax.jit(on_mesh(write.slot_by_slot, write.AXES))(own_k, own_v, k, v, step)
    alone = jax.jit(write.slot_by_slot)(own_k, own_v, k, v, step)
    scattered = jax.jit(write.scattered)(own_k, own_v, k, v, step)
    for found_k, found_v in (on_devices, alone, scattered):
        np.testing.assert_array_equal(found_k, wanted_k)
        np.testing.assert_array_equal(found_v, wanted_v)
