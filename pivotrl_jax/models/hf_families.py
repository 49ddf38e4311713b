"""The families of Hugging Face transformers that a `ModelConfig` can be one of."""

from typing import Any

# The facts of a `ModelConfig` that a family stands for; those of the first, a `ModelConfig`'s own
# defaults, hold where a family does not state them.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "qkv_bias": False,
        "o_bias": False,
        "sinks": False,
        "qk_norm": False,
        "activation": "silu",
        "norm_offset": 0.0,
        "post_norms": False,
        "scaled_embed": False,
    },
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
    "qwen3_moe": {"qk_norm": True},
    "gemma3_text": {
        "qk_norm": True,
        "activation": "gelu_tanh",
        "norm_offset": 1.0,
        "post_norms": True,
        "scaled_embed": True,
    },
    "gpt_oss": {"qkv_bias": True, "o_bias": True, "sinks": True},
}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
}
# What transformers takes for a field that a published file leaves out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 128},
    "qwen3_moe": {"head_dim": 128},
    "gemma3_text": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window_pattern": 6,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
    "gpt_oss": {
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150_000.0,
        "swiglu_limit": 7.0,
        "torch_dtype": "bfloat16",
    },
}
# And for one that states no scaling of rotary frequencies.
SCALING: dict[str, dict[str, Any]] = {
    "gpt_oss": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
}
ACTIVATIONS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}
# What a field must be for the model to be one of ours; absent counts as the first value.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "use_bidirectional_attention": (False, None),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (None,),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([], None),
    "swiglu_alpha": (1.702,),
}
# Of one family, in place of the above.
REQUIRED_OF: dict[str, dict[str, tuple[Any, ...]]] = {"gpt_oss": {"attention_bias": (True,)}}
# Fields that a `gemma3` may state for its text part.
SHARED = ("dtype", "torch_dtype", "tie_word_embeddings", "quantization_config")
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def layer_types(layers: int, period: int) -> list[str]:
    return [LOCAL if number % period else GLOBAL for number in range(1, layers + 1)]
