"""A tiny policy, trunks and requests whose samples end in every possible way."""

import dataclasses

import jax
import numpy as np
import pytest

from pivotrl_jax.models import ModelConfig, Params, init
from pivotrl_jax.models.presets import GPT_OSS_120B, shrink
from pivotrl_jax.sampling import Request, SamplingSettings, sampler


@pytest.fixture(scope="session")
def cfg(tiny_cfg: ModelConfig) -> ModelConfig:
    """So few tokens that about half of all samples draw the end of turn before the cap."""
    return dataclasses.replace(tiny_cfg, vocab=16)


@pytest.fixture(scope="session")
def params(cfg: ModelConfig) -> Params:
    return init(jax.random.key(1), cfg)


@pytest.fixture(scope="session")
def expert_cfg(cfg: ModelConfig) -> ModelConfig:
    """The like with experts, biases, sinks and local layers."""
    return shrink(GPT_OSS_120B, vocab=cfg.vocab, width=32, layers=2, kv_heads=2, head_dim=8, ffn=16)


@pytest.fixture(scope="session")
def expert_params(expert_cfg: ModelConfig) -> Params:
    made, key = init(jax.random.key(1), expert_cfg), jax.random.key(2)
    return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), made)


@pytest.fixture(scope="session")
def trunks(cfg: ModelConfig) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, cfg.vocab, n).astype(np.int32) for n in (21, 9, 14)]


@pytest.fixture(scope="session")
def requests() -> list[list[Request]]:
    """Three samples of several turns per trunk; the middle trunk has none."""
    starts = [(21, 1, 8), (), (14, 5)]
    return [
        [Request(start, start, 2**31 + 100 * row + start, k) for start in own for k in range(3)]
        for row, own in enumerate(starts)
    ]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of every batch of trunks that a sampler reads."""
    shapes, load = [], sampler.load_trunks

    def spy(params, cfg, slots, trunks_QL, rows_Q):
        shapes.append(trunks_QL.shape)
        return load(params, cfg, slots, trunks_QL, rows_Q)

    monkeypatch.setattr(sampler, "load_trunks", spy)
    return shapes


@pytest.fixture(scope="session")
def reference():
    """Probabilities of one row of logits, token by token in falling order."""

    def probabilities(logits: np.ndarray, settings: SamplingSettings) -> np.ndarray:
        probs = np.exp((logits - logits.max()).astype(np.float64) / settings.temperature)
        order = np.argsort(-probs, kind="stable")
        if settings.top_k:
            probs[probs < probs[order[settings.top_k - 1]]] = 0
        probs /= probs.sum()
        mass, border = 0.0, 0.0
        for token in order:
            if mass >= settings.top_p:
                break
            mass, border = mass + probs[token], probs[token]
        probs[probs < border] = 0
        return probs / probs.sum()

    return probabilities
