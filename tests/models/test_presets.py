"""Presets against published configurations, and shrunken ones against the golden models."""

import json
import math
from pathlib import Path

import jax
import pytest

from pivotrl_jax.models import ModelConfig, huggingface, presets, shapes

GOLDEN = Path(__file__).parent / "golden"
SMALL = {"vocab": 256, "layers": 2, "ffn": 96}
SHRUNKEN = {
    "smollm2": presets.shrink(presets.SMOLLM2_135M, width=48, kv_heads=2, head_dim=8, **SMALL),
    "qwen25": presets.shrink(presets.QWEN_2_5_0_5B, width=56, kv_heads=1, head_dim=8, **SMALL),
    "qwen3": presets.shrink(presets.QWEN_3_0_6B, width=48, kv_heads=2, head_dim=16, **SMALL),
    "qwen3_moe": presets.shrink(
        presets.QWEN_3_30B_A3B, width=48, kv_heads=1, head_dim=16, **SMALL | {"ffn": 24}
    ),
    "gemma3": presets.shrink(
        presets.GEMMA_3_27B, width=48, kv_heads=2, head_dim=16, **SMALL | {"layers": 6}
    ),
    "gpt_oss": presets.shrink(
        presets.GPT_OSS_120B, width=48, kv_heads=1, head_dim=16, **SMALL | {"ffn": 24}
    ),
}
PUBLISHED = {
    "Llama-3.2-1B": {
        "model_type": "llama", "attention_bias": False, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
        "tie_word_embeddings": True, "torch_dtype": "float32", "vocab_size": 128256,
    },
    "Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
        "tie_word_embeddings": True, "torch_dtype": "float32", "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen3-4B": {
        "model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 2560, "intermediate_size": 9728, "max_position_embeddings": 40960,
        "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
        "torch_dtype": "float32", "use_sliding_window": False, "vocab_size": 151936,
    },
    "Qwen3-30B-A3B": {
        "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
        "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
        "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32,
        "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "float32",
        "use_sliding_window": False, "vocab_size": 151936,
    },
    "gemma-3-1b": {
        "model_type": "gemma3_text", "attention_bias": False, "attn_logit_softcapping": None,
        "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152, "intermediate_size": 6912, "max_position_embeddings": 32768,
        "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
        "sliding_window_pattern": 6, "torch_dtype": "float32", "vocab_size": 262144,
    },
    "gemma-3-4b": {
        "model_type": "gemma3", "mm_tokens_per_image": 256, "torch_dtype": "float32",
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152},
    },
    "gemma-3-27b": {
        "model_type": "gemma3", "mm_tokens_per_image": 256, "torch_dtype": "float32",
        "text_config": {
            "model_type": "gemma3_text", "head_dim": 128, "hidden_size": 5376,
            "intermediate_size": 21504, "num_attention_heads": 32, "num_hidden_layers": 62,
            "num_key_value_heads": 16, "query_pre_attn_scalar": 168,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
        },
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152},
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss", "attention_bias": True, "experts_per_token": 4, "head_dim": 64,
        "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096,
        "intermediate_size": 2880, "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072, "num_attention_heads": 64, "num_experts_per_tok": 4,
        "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32,
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
            "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": False,
        },
        "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128,
        "swiglu_limit": 7.0, "tie_word_embeddings": False, "torch_dtype": "float32",
        "vocab_size": 201088,
    },
}  # fmt: skip
PRESETS = {cfg.name: cfg for cfg in vars(presets).values() if isinstance(cfg, ModelConfig)}
# Billions of parameters, as the models' cards have them.
SIZES = {
    "SmolLM2-135M": 0.135, "Llama-3.2-1B": 1.23, "Llama-3.2-3B": 3.21, "Llama-3.1-8B": 8.03,
    "Llama-3.1-70B": 70.6, "Qwen2.5-0.5B": 0.49, "Qwen3-0.6B": 0.6, "Qwen3-1.7B": 1.7,
    "Qwen3-4B": 4.0, "Qwen3-8B": 8.2, "Qwen3-14B": 14.8, "Qwen3-32B": 32.8,
    "Qwen3-30B-A3B": 30.5,
    "gemma-3-270m": 0.268, "gemma-3-1b": 1.0, "gemma-3-4b": 3.88, "gemma-3-12b": 11.77,
    "gemma-3-27b": 27.0, "gpt-oss-20b": 20.9, "gpt-oss-120b": 116.8,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_the_published_configurations(name):
    assert huggingface.config_from_hf(PUBLISHED[name], name) == PRESETS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_number_of_parameters(name):
    """And each of them comes back from its own `config.json`."""
    cfg = PRESETS[name]
    billions = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes(cfg))) / 1e9
    assert billions == pytest.approx(SIZES[name], rel=0.015)
    assert huggingface.config_from_hf(huggingface.config_to_hf(cfg), name) == cfg


@pytest.mark.parametrize("name", SHRUNKEN)
def test_shrinking_keeps_the_features_of_the_published_model(name):
    published = json.loads((GOLDEN / name / "config.json").read_text())
    assert huggingface.config_from_hf(published, SHRUNKEN[name].name) == SHRUNKEN[name]
