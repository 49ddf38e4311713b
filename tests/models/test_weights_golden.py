"""Logits against Hugging Face transformers on the same weights; see make_golden.py."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from pivotrl_jax.models import huggingface, logits
from pivotrl_jax.models.config import ExpertConfig, LocalLayers, ModelConfig, YarnScaling
from pivotrl_jax.models.params import Params

GOLDEN = Path(__file__).parent / "golden"


compiled = jax.jit(logits, static_argnums=1)


def deviation(directory: Path, params: Params, cfg: ModelConfig) -> float:
    golden = np.load(directory / "logits.npz")
    ours = compiled(params, cfg, golden["tokens"])
    return float(np.abs(np.asarray(ours) - golden["logits"]).max())


def test_logits_equal_those_of_transformers(family):
    assert deviation(family.directory, family.params, family.cfg) < 1e-4


YARN = YarnScaling(32.0, 32.0, 1.0, 4096, 1 + 0.1 * math.log(32), truncated=False)
# What each family has and another lacks: leaves that are left out, or a field that is changed.
FEATURES = {
    "llama31": [{"rope_scaling": None}, {"rope_theta": 10_000.0}],
    "qwen25": [("q_bias", "k_bias", "v_bias")],
    "qwen3": [("q_norm", "k_norm")],
    "qwen3_moe": [{"experts": ExpertConfig(8, 2, 24, normalised=False)}],
    "gemma3": [
        ("attn_post_norm",),
        ("ffn_post_norm",),
        {"local": LocalLayers(9, 6, 10_000.0)},
        {"local": LocalLayers(8, 5, 10_000.0)},
        {"local": LocalLayers(8, 6, 1_000_000.0)},
        {"rope_scaling": None},
        {"activation": "silu"},
        {"norm_offset": 0.0},
        {"scaled_embed": False},
        {"query_scalar": None},
    ],
    "gpt_oss": [
        ("q_bias", "k_bias", "v_bias"),
        ("o_bias",),
        ("sinks",),
        ("router_bias",),
        ("expert_gate_bias", "expert_up_bias"),
        ("expert_down_bias",),
        {"experts": ExpertConfig(8, 2, 24, bias=True, limit=7.0)},
        {"experts": ExpertConfig(8, 2, 24, bias=True, limit=None)},
        {"local": LocalLayers(9, 2, None)},
        {"local": LocalLayers(8, 1, None)},
        {"local": LocalLayers(8, 2, 150_000.0)},
        {"rope_scaling": dataclasses.replace(YARN, magnitude=1.0)},
        {"rope_scaling": dataclasses.replace(YARN, truncated=True)},
        {"rope_scaling": dataclasses.replace(YARN, beta_fast=16.0)},
        {"rope_scaling": dataclasses.replace(YARN, beta_slow=2.0)},
    ],
}
CHANGES = [(name, change) for name, changes in FEATURES.items() for change in changes]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=str)
def test_golden_logits_notice_a_missing_feature(name, change):
    """Otherwise the agreement above would say nothing about that feature."""
    cfg = huggingface.read_config(GOLDEN / name)
    params = huggingface.load(GOLDEN / name, cfg)
    if isinstance(change, tuple):
        params = params.replace(layers=params.layers.replace(**dict.fromkeys(change)))
    else:
        cfg = dataclasses.replace(cfg, **change)
    assert deviation(GOLDEN / name, params, cfg) > 1e-2
