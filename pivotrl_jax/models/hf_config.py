"""Architectures in the fields of a Hugging Face `config.json`, in and out."""

from collections.abc import Mapping
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.config import ExpertConfig, ModelConfig, RopeScaling

QK_NORM = ("qwen3", "qwen3_moe")
# What a field must be for the model to be one of ours; absent counts as the first value.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (None,),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([], None),
}


def config_from_hf(config_json: Mapping[str, Any], name: str = "") -> ModelConfig:
    """The architecture of a `config.json`; UserError names the field that is not supported."""
    family = config_json.get("model_type")
    if family not in ("llama", "qwen2", "qwen3", "qwen3_moe"):
        raise _unsupported("model_type", family, "llama, qwen2, qwen3 or qwen3_moe")
    for field, allowed in REQUIRED.items():
        if config_json.get(field, allowed[0]) not in allowed:
            raise _unsupported(field, config_json[field], repr(allowed[0]))
    for kind in config_json.get("layer_types") or ():
        if kind != "full_attention":
            raise _unsupported("layer_types", kind, "full_attention in every layer")
    width, heads = _field(config_json, "hidden_size"), _field(config_json, "num_attention_heads")
    rope = _rope(config_json)
    return ModelConfig(
        name=name or config_json.get("_name_or_path") or family,
        vocab=_field(config_json, "vocab_size"),
        width=width,
        layers=_field(config_json, "num_hidden_layers"),
        heads=heads,
        kv_heads=config_json.get("num_key_value_heads") or heads,
        head_dim=config_json.get("head_dim") or (128 if family in QK_NORM else width // heads),
        ffn=_field(config_json, "intermediate_size"),
        rope_theta=float(rope.get("rope_theta", 10_000.0)),
        norm_eps=float(config_json.get("rms_norm_eps", 1e-6)),
        max_positions=_field(config_json, "max_position_embeddings"),
        rope_scaling=_rope_scaling(rope),
        tied=config_json.get("tie_word_embeddings", False),
        qkv_bias=family == "qwen2",
        qk_norm=family in QK_NORM,
        experts=_experts(config_json) if family == "qwen3_moe" else None,
        dtype=config_json.get("dtype") or config_json.get("torch_dtype") or "float32",
    )


def _unsupported(field: str, value: object, wanted: str) -> UserError:
    return UserError(f"config.json: {field} is {value!r}, which is not supported; use {wanted}")


def _field(config_json: Mapping[str, Any], field: str) -> int:
    if not isinstance(config_json.get(field), int):
        raise UserError(f"config.json: {field} must be an integer; restore the published file")
    return config_json[field]


def _experts(config_json: Mapping[str, Any]) -> ExpertConfig:
    # Transformers 5 writes the number under another name than the published files have.
    number = "num_local_experts" if "num_local_experts" in config_json else "num_experts"
    return ExpertConfig(
        number=_field(config_json, number),
        active=_field(config_json, "num_experts_per_tok"),
        ffn=_field(config_json, "moe_intermediate_size"),
        normalised=config_json.get("norm_topk_prob", False),
    )


def _experts_to_hf(experts: ExpertConfig) -> dict[str, Any]:
    return {
        "num_experts": experts.number,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.ffn,
        "norm_topk_prob": experts.normalised,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _rope(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary fields of transformers 5 (`rope_parameters`) or before, in the shape of 5."""
    theta = {k: config_json[k] for k in ("rope_theta",) if k in config_json}
    return (
        theta | (config_json.get("rope_scaling") or {}) | (config_json.get("rope_parameters") or {})
    )


def _rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise _unsupported("rope_scaling.rope_type", kind, "default or llama3")
    try:
        return RopeScaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_positions=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise UserError(
            f"config.json: rope_scaling lacks {error}; restore the published file"
        ) from None


def config_to_hf(cfg: ModelConfig, eos_token_id: int | None = None) -> dict[str, Any]:
    """The `config.json` of an architecture, in the fields that transformers 4 and 5 both read."""
    if cfg.qkv_bias and cfg.qk_norm:
        raise UserError("no Hugging Face family has both qkv_bias and qk_norm; unset one of them")
    if cfg.experts is not None and not cfg.qk_norm:
        raise UserError("no Hugging Face family has experts without qk_norm; set it")
    family, model_class = "llama", "LlamaForCausalLM"
    if cfg.qkv_bias:
        family, model_class = "qwen2", "Qwen2ForCausalLM"
    if cfg.qk_norm:
        family, model_class = "qwen3", "Qwen3ForCausalLM"
    if cfg.experts is not None:
        family, model_class = "qwen3_moe", "Qwen3MoeForCausalLM"
    scaling = cfg.rope_scaling and {
        "rope_type": "llama3",
        "factor": cfg.rope_scaling.factor,
        "low_freq_factor": cfg.rope_scaling.low_freq_factor,
        "high_freq_factor": cfg.rope_scaling.high_freq_factor,
        "original_max_position_embeddings": cfg.rope_scaling.original_max_positions,
    }
    return {
        "architectures": [model_class],
        "model_type": family,
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.ffn,
        "hidden_act": "silu",
        "attention_bias": False,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": scaling,
        "rms_norm_eps": cfg.norm_eps,
        "max_position_embeddings": cfg.max_positions,
        "tie_word_embeddings": cfg.tied,
        **({} if cfg.experts is None else _experts_to_hf(cfg.experts)),
        "torch_dtype": cfg.dtype,
        # Written even when unknown, because transformers' own defaults are ids of Llama 2.
        "bos_token_id": None,
        "eos_token_id": eos_token_id,
    }
