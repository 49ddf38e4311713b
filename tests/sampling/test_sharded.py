"""The same samples on every mesh."""

import jax
import numpy as np
import pytest

from pivotrl_jax.models import logical_axes, logits, shapes
from pivotrl_jax.models.experts import expert_layer
from pivotrl_jax.parallel import MeshSettings, make_mesh, put_rows, rows, shardings
from pivotrl_jax.sampling import EngineSettings, SamplingSettings, sample
from pivotrl_jax.sampling.engine import decoding_layers, load_trunks
from pivotrl_jax.sampling.slots import idle_slots

# As many rows as devices: three trunks and five rows of padding.
ENGINE = EngineSettings(rows=8, slots=32, chunk=16, row_multiple=16)


@pytest.fixture(scope="module")
def serve(cfg, params, trunks, requests):
    def serve(*sizes: int, cfg=cfg, params=params):
        mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: np.prod(sizes)])
        placed = jax.device_put(params, shardings(shapes(cfg), logical_axes(cfg), mesh))
        with jax.set_mesh(mesh):
            found = sample(
                placed, cfg, trunks, requests, jax.random.key(2), (3,),
                SamplingSettings(max_tokens=10), ENGINE, mesh,
            )  # fmt: skip
            return [samples for _, samples in sorted(found)]

    return serve


@pytest.fixture(scope="module")
def alone(serve):
    return serve(1, 1, 1)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (1, 2, 1, 1, 4), (1, 1, 2, 1, 3)])
def test_samples_do_not_depend_on_the_mesh(serve, alone, sizes):
    """Over four devices a row's slots and its trunk are divided, over three neither is."""
    count = 0
    for own, other in zip(serve(*sizes), alone, strict=True):
        for a, b in zip(own, other, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_allclose(a.behaviour, b.behaviour, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(a.plain, b.plain, rtol=1e-4, atol=1e-4)
            count += len(a.tokens)
    assert count > 50


def test_devices_read_trunks_of_one_size_at_a_time(serve, read):
    serve(1, 2, 1)
    assert read == [(2, 32), (2, 16)]


@pytest.mark.parametrize("sizes", [(2, 1, 2, 2), (1, 4, 1, 2), (1, 2, 1, 2, 2)])
def test_experts_on_a_mesh_give_the_log_probs_of_the_whole_model_on_one_device(
    serve, expert_cfg, expert_params, trunks, requests, sizes
):
    """Over data, tensor and expert together; over fsdp, which has a share of the experts' width for
    prefills, and of the experts for decoding."""
    groups = serve(*sizes, cfg=expert_cfg, params=expert_params)
    found = [s for group in groups for s in group]
    asked = [(trunk, r) for trunk, own in zip(trunks, requests, strict=True) for r in own]
    tokens = np.zeros((len(asked), 32), np.int32)
    for row, (trunk, request), s in zip(tokens, asked, found, strict=True):
        row[: request.start + len(s.tokens)] = [*trunk[: request.start], *s.tokens]
    z_RTV = jax.jit(logits, static_argnums=1)(expert_params, expert_cfg, tokens)
    logp_RTV = np.asarray(jax.nn.log_softmax(z_RTV))
    for logp_TV, (_, request), s in zip(logp_RTV, asked, found, strict=True):
        places = request.start - 1 + np.arange(len(s.tokens))
        np.testing.assert_allclose(logp_TV[places, s.tokens], s.plain, rtol=1e-4, atol=1e-4)


def test_trunks_are_prefilled_where_their_row_lies(cfg, params):
    """Two rows a device: nothing but weights travels, neither keys nor hidden states."""
    mesh, sampling = make_mesh(MeshSettings(1, 8)), SamplingSettings(max_tokens=10)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings(shapes(cfg), logical_axes(cfg), mesh))
        slots = idle_slots(cfg, sampling, (16, 2), 32)
        given = put_rows((np.zeros((8, 32), np.int32), np.ones(8, np.int32)), mesh)
        text = load_trunks.lower(placed, cfg, slots, *given).compile().as_text()
    assert f"f32[2,{cfg.kv_heads},{cfg.head_dim},32]" in text
    for whole in (f"f32[8,{cfg.kv_heads},{cfg.head_dim},32]", f"f32[8,32,{cfg.width}]"):
        assert whole not in text


def test_decoding_gathers_no_expert(expert_cfg, expert_params):
    """Every device has its share of them whole, and tokens travel."""
    mesh = make_mesh(MeshSettings(1, 8))
    cfg, layout = expert_cfg, shardings(shapes(expert_cfg), logical_axes(expert_cfg), mesh)
    with jax.set_mesh(mesh):
        first = decoding_layers(jax.device_put(expert_params, layout), cfg)[0]
        x_TD = jax.device_put(np.ones((64, cfg.width), np.float32), rows(mesh, (64, cfg.width)))
        run = jax.jit(expert_layer, static_argnums=1)
        text = run.lower(first, cfg.experts, x_TD).compile().as_text()
    number, ffn = cfg.experts.number, cfg.experts.ffn
    assert first.expert_gate.sharding.shard_shape(first.expert_gate.shape)[0] == number // 8
    assert f"f32[{number // 8},{cfg.width},{ffn}]" in text
    assert f"f32[{number},{cfg.width},{ffn}]" not in text
    assert f" = f32[{number},{cfg.width}]{{1,0}} all-gather" not in text
