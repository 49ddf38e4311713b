"""The same samples on every mesh."""

import jax
import numpy as np
import pytest

from pivotrl_jax.models import logical_axes, shapes
from pivotrl_jax.parallel import MeshSettings, make_mesh, shardings
from pivotrl_jax.sampling import EngineSettings, SamplingSettings, sample

# As many rows as devices: three trunks and five rows of padding.
ENGINE = EngineSettings(rows=8, slots=32, chunk=16, row_multiple=16)


@pytest.fixture(scope="module")
def serve(cfg, params, trunks, requests):
    def serve(*sizes: int):
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


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_samples_do_not_depend_on_the_mesh(serve, alone, sizes):
    count = 0
    for own, other in zip(serve(*sizes), alone, strict=True):
        for a, b in zip(own, other, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_allclose(a.behaviour, b.behaviour, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(a.plain, b.plain, rtol=1e-4, atol=1e-4)
            count += len(a.tokens)
    assert count > 50
