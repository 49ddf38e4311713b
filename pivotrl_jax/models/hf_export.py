"""An architecture as the `config.json` of Hugging Face transformers."""

import dataclasses
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.config import (
    ExpertConfig,
    LinearScaling,
    ModelConfig,
    RopeScaling,
    YarnScaling,
)
from pivotrl_jax.models.hf_families import ACTIVATIONS, CLASSES, FAMILIES, SCALING, layer_types


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
        "hidden_activation" if family == "gemma3_text" else "hidden_act": ACTIVATIONS[
            cfg.activation
        ],
        "attention_bias": cfg.o_bias,
        "rope_theta": cfg.rope_theta,
        # Where a family has a scaling of its own, to be silent would mean that one.
        "rope_scaling": _scaling_to_hf(cfg.rope_scaling)
        or ({"rope_type": "default"} if family in SCALING else None),
        "rms_norm_eps": cfg.norm_eps,
        "max_position_embeddings": cfg.max_positions,
        "tie_word_embeddings": cfg.tied,
        **_experts_to_hf(cfg.experts),
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
        scalar = family == "gemma3_text" or cfg.query_scalar is None
        if facts == plain | own and scalar and _layers_fit(cfg, family):
            return family
    facts |= {name: getattr(cfg, name) for name in ("local", "experts", "query_scalar")}
    stated = ", ".join(f"{k}={v!r}" for k, v in facts.items() if v != plain.get(k))
    raise UserError(f"no Hugging Face family has {stated}; use the facts of one of them")


def _layers_fit(cfg: ModelConfig, family: str) -> bool:
    """Whether layers of a family may be local and have experts as those of `cfg` do."""
    local, experts = cfg.local, cfg.experts
    match family:
        case "gemma3_text":
            return local is not None and local.rope_theta is not None and experts is None
        case "qwen3_moe":
            plain = experts is not None and not experts.bias and experts.limit is None
            return local is None and plain
        case "gpt_oss":
            biased = experts is not None and experts.bias and experts.limit is not None
            normalised = experts is not None and experts.normalised
            return local is not None and local.rope_theta is None and biased and normalised
    return local is None and experts is None


def _experts_to_hf(experts: ExpertConfig | None) -> dict[str, Any]:
    if experts is None:
        return {}
    if experts.limit is not None:
        return {
            "num_local_experts": experts.number,
            "num_experts_per_tok": experts.active,
            "intermediate_size": experts.ffn,
            "swiglu_limit": experts.limit,
        }
    return {
        "num_experts": experts.number,
        "num_experts_per_tok": experts.active,
        "moe_intermediate_size": experts.ffn,
        "norm_topk_prob": experts.normalised,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _scaling_to_hf(
    scaling: RopeScaling | LinearScaling | YarnScaling | None,
) -> dict[str, Any] | None:
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
        case YarnScaling():
            return {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "original_max_position_embeddings": scaling.original_max_positions,
                "attention_factor": scaling.magnitude,
                "truncate": scaling.truncated,
            }
    return None


def _local_to_hf(cfg: ModelConfig) -> dict[str, Any]:
    """The fields that only families with local layers have."""
    if cfg.local is None:
        return {}
    fields: dict[str, Any] = {
        "sliding_window": cfg.local.window,
        "layer_types": layer_types(cfg.layers, cfg.local.period),
    }
    if cfg.local.rope_theta is None:
        return fields
    return fields | {
        "query_pre_attn_scalar": cfg.query_scalar or cfg.head_dim,
        "sliding_window_pattern": cfg.local.period,
        "rope_local_base_freq": cfg.local.rope_theta,
    }
