"""What the sampler reports of every family's samples, against plain forward passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pivotrl_jax.models import logits
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.sampling import EngineSettings, Request, SamplingSettings, sample

ENDS = (3, 7)
HOT = SamplingSettings(temperature=1.3, max_tokens=12)
ENGINE = EngineSettings(rows=2, slots=8, chunk=6, row_multiple=32)
SAMPLES = 4
SIZE = 48
# Turns of two trunks, longer than any window: at their ends, and within, where experts draft.
TURNS = [[(30, 30), (11, 17)], [(23, 23), (2, 5)]]
read = jax.jit(logits, static_argnums=1)


# At bfloat16 a token now and then goes through other experts.
@pytest.mark.parametrize(
    ("precision", "summary", "most"), [("float32", np.max, 1e-4), ("bfloat16", np.mean, 1e-2)]
)
def test_samples_have_the_log_probs_of_a_forward_pass(family, precision, summary, most):
    cfg = dataclasses.replace(family.cfg, matmul_precision=precision)
    rng = np.random.default_rng(0)
    trunks = [rng.integers(1, cfg.vocab, own[0][0]).astype(np.int32) for own in TURNS]
    requests = [
        [Request(start, end, 100 * row + start, k) for start, end in own for k in range(SAMPLES)]
        for row, own in enumerate(TURNS)
    ]
    mesh = make_mesh(MeshSettings(), jax.devices()[:1])
    key = jax.random.key(3)
    served = dict(sample(family.params, cfg, trunks, requests, key, ENDS, HOT, ENGINE, mesh))
    flat, found = [], []
    for row, own in enumerate(requests):
        for request, drawn in zip(own, served[row], strict=True):
            history = trunks[row][: request.start]
            flat.append(np.pad(np.concatenate([history, drawn.tokens]), (0, SIZE))[:SIZE])
            found.append((request.start, drawn))
    z_RTV = read(family.params, cfg, jnp.asarray(flat))
    gaps = []
    for (start, drawn), z_TV in zip(found, z_RTV, strict=True):
        before = z_TV[start - 1 : start - 1 + len(drawn.tokens)]
        for reported, temperature in ((drawn.behaviour, HOT.temperature), (drawn.plain, 1.0)):
            logp_TV = jax.nn.log_softmax(before / temperature)
            expected = np.take_along_axis(np.asarray(logp_TV), drawn.tokens[:, None], axis=1)
            gaps.append(np.abs(reported - expected[:, 0]))
    assert summary(np.concatenate(gaps)) < most
