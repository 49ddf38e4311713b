"""Logits against Hugging Face transformers on the same weights; see make_golden.py."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from pivotrl_jax.models import huggingface, logits
from pivotrl_jax.models.config import ExpertConfig, ModelConfig
from pivotrl_jax.models.params import Params

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["smollm2", "llama31", "qwen25", "qwen3", "qwen3_moe"]


def deviation(name: str, params: Params, cfg: ModelConfig) -> float:
    golden = np.load(GOLDEN / name / "logits.npz")
    ours = jax.jit(logits, static_argnums=1)(params, cfg, golden["tokens"])
    return float(np.abs(np.asarray(ours) - golden["logits"]).max())


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_transformers(name):
    cfg = huggingface.read_config(GOLDEN / name)
    params = huggingface.load(GOLDEN / name, cfg)
    assert deviation(name, params, cfg) < 1e-4


@pytest.mark.parametrize("name", ["llama31", "qwen25", "qwen3", "smollm2", "qwen3_moe"])
def test_golden_logits_notice_a_missing_feature(name):
    """Otherwise the agreement above would say nothing about that feature."""
    cfg = huggingface.read_config(GOLDEN / name)
    params = huggingface.load(GOLDEN / name, cfg)
    without = {
        "llama31": (params, dataclasses.replace(cfg, rope_scaling=None)),
        "qwen25": (_drop(params, "q_bias", "k_bias", "v_bias"), cfg),
        "qwen3": (_drop(params, "q_norm", "k_norm"), cfg),
        "smollm2": (params, dataclasses.replace(cfg, rope_theta=10_000.0)),
        "qwen3_moe": (
            params,
            dataclasses.replace(cfg, experts=ExpertConfig(8, 2, 24, normalised=False)),
        ),
    }
    assert deviation(name, *without[name]) > 1e-2


def _drop(params: Params, *leaves: str) -> Params:
    return params.replace(layers=params.layers.replace(**dict.fromkeys(leaves)))
