"""A `config.json` of Hugging Face transformers, in and out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.config import (
    ExpertConfig,
    LinearScaling,
    LocalLayers,
    ModelConfig,
    RopeScaling,
)

# The facts of a `ModelConfig` that a family stands for; those of the first, a `ModelConfig`'s own
# defaults, hold where a family does not state them.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {
        "qkv_bias": False,
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
}
CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
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
}
# Fields that a `gemma3` may state for its text part.
SHARED = ("dtype", "torch_dtype", "tie_word_embeddings", "quantization_config")
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def config_from_hf(config_json: Mapping[str, Any], name: str = "") -> ModelConfig:
    """The architecture of a `config.json`; UserError names the field that is not supported.

    Of a `gemma3`, which reads images too, it is that of the text part.
    """
    family = config_json.get("model_type")
    if family == "gemma3":
        kept = {field: config_json[field] for field in SHARED if field in config_json}
        text = {"model_type": "gemma3_text"} | kept | config_json.get("text_config", {})
        return config_from_hf(text, name or family)
    if family not in FAMILIES:
        raise _unsupported("model_type", family, f"one of {', '.join(FAMILIES)}")
    config_json = DEFAULTS.get(family, {}) | dict(config_json)
    facts = FAMILIES["llama"] | FAMILIES[family]
    _check(config_json, ACTIVATIONS[facts["activation"]])
    width, heads = _field(config_json, "hidden_size"), _field(config_json, "num_attention_heads")
    rope = _rope(config_json)
    return ModelConfig(
        name=name or config_json.get("_name_or_path") or family,
        vocab=_field(config_json, "vocab_size"),
        width=width,
        layers=_field(config_json, "num_hidden_layers"),
        heads=heads,
        kv_heads=config_json.get("num_key_value_heads") or heads,
        head_dim=config_json.get("head_dim") or width // heads,
        ffn=_field(config_json, "intermediate_size"),
        rope_theta=float(rope.get("rope_theta", 10_000.0)),
        norm_eps=float(config_json.get("rms_norm_eps", 1e-6)),
        max_positions=_field(config_json, "max_position_embeddings"),
        rope_scaling=_rope_scaling(rope),
        tied=config_json.get("tie_word_embeddings", False),
        local=_local(config_json, family),
        experts=_experts(config_json) if family == "qwen3_moe" else None,
        query_scalar=config_json.get("query_pre_attn_scalar"),
        dtype=config_json.get("dtype") or config_json.get("torch_dtype") or "float32",
        **facts,
    )


def _unsupported(field: str, value: object, wanted: str) -> UserError:
    return UserError(f"config.json: {field} is {value!r}, which is not supported; use {wanted}")


def _check(config_json: Mapping[str, Any], activation: str) -> None:
    activations = dict.fromkeys(("hidden_act", "hidden_activation"), (activation,))
    for field, allowed in (activations | REQUIRED).items():
        if config_json.get(field, allowed[0]) not in allowed:
            raise _unsupported(field, config_json[field], repr(allowed[0]))


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


def _local(config_json: Mapping[str, Any], family: str) -> LocalLayers | None:
    layers, kinds = _field(config_json, "num_hidden_layers"), config_json.get("layer_types")
    if family != "gemma3_text":
        if kinds and set(kinds) != {GLOBAL}:
            raise _unsupported("layer_types", kinds, f"{GLOBAL} in every layer")
        return None
    period = _field(config_json, "sliding_window_pattern")
    if kinds:
        period = 1 + (kinds.index(GLOBAL) if GLOBAL in kinds else len(kinds))
    if kinds and kinds != _layer_types(layers, period):
        raise _unsupported("layer_types", kinds, f"one {GLOBAL} after every so many of {LOCAL}")
    rope = {"rope_theta": config_json["rope_local_base_freq"]} | _nested(config_json, LOCAL)
    if _rope_scaling(rope) is not None:
        raise _unsupported(f"rope_parameters.{LOCAL}", rope, "rope_type default")
    return LocalLayers(_field(config_json, "sliding_window"), period, float(rope["rope_theta"]))


def _layer_types(layers: int, period: int) -> list[str]:
    return [LOCAL if number % period else GLOBAL for number in range(1, layers + 1)]


def _nested(config_json: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The rotary fields of one kind of layers, where they have each their own."""
    return (config_json.get("rope_parameters") or {}).get(kind) or {}


def _rope(config_json: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary fields of transformers 5 (`rope_parameters`) or before, in the shape of 5.

    Where layers differ, those of the ones that see everything.
    """
    theta = {k: config_json[k] for k in ("rope_theta",) if k in config_json}
    own = _nested(config_json, GLOBAL) or config_json.get("rope_parameters") or {}
    return theta | (config_json.get("rope_scaling") or {}) | own


def _rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | LinearScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("llama3", "linear"):
        raise _unsupported("rope_scaling.rope_type", kind, "default, linear or llama3")
    try:
        if kind == "linear":
            return LinearScaling(float(rope["factor"]))
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
    family = _family(cfg)
    return {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "vocab_size": cfg.vocab,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "intermediate_size": cfg.ffn,
        "hidden_act" if cfg.local is None else "hidden_activation": ACTIVATIONS[cfg.activation],
        "attention_bias": False,
        "rope_theta": cfg.rope_theta,
        "rope_scaling": _scaling_to_hf(cfg.rope_scaling),
        "rms_norm_eps": cfg.norm_eps,
        "max_position_embeddings": cfg.max_positions,
        "tie_word_embeddings": cfg.tied,
        **({} if cfg.experts is None else _experts_to_hf(cfg.experts)),
        "torch_dtype": cfg.dtype,
        # Written even when unknown, because transformers' own defaults are ids of Llama 2.
        "bos_token_id": None,
        "eos_token_id": eos_token_id,
    } | _local_to_hf(cfg)


def _family(cfg: ModelConfig) -> str:
    """The family whose facts are those of `cfg`; UserError where there is none."""
    plain = FAMILIES["llama"]
    facts = {name: getattr(cfg, name) for name in plain}
    for family, own in FAMILIES.items():
        local, experts = family == "gemma3_text", family == "qwen3_moe"
        same = local == (cfg.local is not None) and experts == (cfg.experts is not None)
        if same and facts == plain | own and (local or cfg.query_scalar is None):
            return family
    facts |= {name: getattr(cfg, name) for name in ("local", "experts", "query_scalar")}
    stated = ", ".join(f"{k}={v!r}" for k, v in facts.items() if v != plain.get(k))
    raise UserError(f"no Hugging Face family has {stated}; use the facts of one of them")


def _experts_to_hf(experts: ExpertConfig) -> dict[str, Any]:
    return {
        "num_experts": experts.number,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.ffn,
        "norm_topk_prob": experts.normalised,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _scaling_to_hf(scaling: RopeScaling | LinearScaling | None) -> dict[str, Any] | None:
    match scaling:
        case LinearScaling(factor):
            return {"rope_type": "linear", "factor": factor}
        case RopeScaling():
            fields = dataclasses.asdict(scaling)
            positions = fields.pop("original_max_positions")
            return {
                "rope_type": "llama3",
                **fields,
                "original_max_position_embeddings": positions,
            }
    return None


def _local_to_hf(cfg: ModelConfig) -> dict[str, Any]:
    """The fields that only families with local layers have."""
    if cfg.local is None:
        return {}
    return {
        "query_pre_attn_scalar": cfg.query_scalar or cfg.head_dim,
        "sliding_window": cfg.local.window,
        "sliding_window_pattern": cfg.local.period,
        "layer_types": _layer_types(cfg.layers, cfg.local.period),
        "rope_local_base_freq": cfg.local.rope_theta,
    }
