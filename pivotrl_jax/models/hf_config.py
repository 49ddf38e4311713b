"""The architecture of a `config.json` of Hugging Face transformers."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.config import (
    ExpertConfig,
    LinearScaling,
    LocalLayers,
    ModelConfig,
    RopeScaling,
    YarnScaling,
)
from pivotrl_jax.models.hf_families import (
    ACTIVATIONS,
    DEFAULTS,
    FAMILIES,
    GLOBAL,
    LOCAL,
    REQUIRED,
    REQUIRED_OF,
    SCALING,
    SHARED,
    layer_types,
)


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
    if not config_json.get("rope_scaling") and not config_json.get("rope_parameters"):
        config_json |= {"rope_scaling": SCALING.get(family)}
    facts = FAMILIES["llama"] | FAMILIES[family]
    _check(config_json, family, ACTIVATIONS[facts["activation"]])
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
        experts=_experts(config_json, family),
        query_scalar=config_json.get("query_pre_attn_scalar"),
        dtype=config_json.get("dtype") or config_json.get("torch_dtype") or "float32",
        **facts,
    )


def _unsupported(field: str, value: object, wanted: str) -> UserError:
    return UserError(f"config.json: {field} is {value!r}, which is not supported; use {wanted}")


def _check(config_json: Mapping[str, Any], family: str, activation: str) -> None:
    required = dict.fromkeys(("hidden_act", "hidden_activation"), (activation,)) | REQUIRED
    required |= REQUIRED_OF.get(family, {})
    quantised = config_json.get("quantization_config") or {}
    if family == "gpt_oss" and quantised.get("quant_method") == "mxfp4":
        del required["quantization_config"]
    for field, allowed in required.items():
        if config_json.get(field, allowed[0]) not in allowed:
            raise _unsupported(field, config_json[field], repr(allowed[0]))


def _field(config_json: Mapping[str, Any], field: str) -> int:
    if not isinstance(config_json.get(field), int):
        raise UserError(f"config.json: {field} must be an integer; restore the published file")
    return config_json[field]


def _number(fields: Mapping[str, Any], field: str) -> float:
    if not isinstance(fields[field], int | float):
        raise UserError(f"config.json: {field} must be a number; restore the published file")
    return float(fields[field])


def _experts(config_json: Mapping[str, Any], family: str) -> ExpertConfig | None:
    # Transformers 5 writes the number under another name than the published files have.
    number = "num_local_experts" if "num_local_experts" in config_json else "num_experts"
    match family:
        case "qwen3_moe":
            return ExpertConfig(
                number=_field(config_json, number),
                active=_field(config_json, "num_experts_per_tok"),
                ffn=_field(config_json, "moe_intermediate_size"),
                normalised=config_json.get("norm_topk_prob", False),
            )
        case "gpt_oss":
            return ExpertConfig(
                number=_field(config_json, number),
                active=_field(config_json, "num_experts_per_tok"),
                ffn=_field(config_json, "intermediate_size"),
                bias=True,
                limit=_number(config_json, "swiglu_limit"),
            )
    return None


def _local(config_json: Mapping[str, Any], family: str) -> LocalLayers | None:
    layers, kinds = _field(config_json, "num_hidden_layers"), config_json.get("layer_types")
    if family not in ("gemma3_text", "gpt_oss"):
        if kinds and set(kinds) != {GLOBAL}:
            raise _unsupported("layer_types", kinds, f"{GLOBAL} in every layer")
        return None
    period = 2 if family == "gpt_oss" else _field(config_json, "sliding_window_pattern")
    if kinds:
        period = 1 + (kinds.index(GLOBAL) if GLOBAL in kinds else len(kinds))
    if kinds and kinds != layer_types(layers, period):
        raise _unsupported("layer_types", kinds, f"one {GLOBAL} after every so many of {LOCAL}")
    window = _field(config_json, "sliding_window")
    if family == "gpt_oss":
        return LocalLayers(window, period, None)
    if isinstance(_rope_scaling(_rope(config_json)), YarnScaling):
        raise _unsupported("rope_scaling.rope_type", "yarn", "linear beside local layers")
    rope = {"rope_theta": config_json["rope_local_base_freq"]} | _nested(config_json, LOCAL)
    if _rope_scaling(rope) is not None:
        raise _unsupported(f"rope_parameters.{LOCAL}", rope, "rope_type default")
    return LocalLayers(window, period, float(rope["rope_theta"]))


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


def _rope_scaling(rope: Mapping[str, Any]) -> RopeScaling | LinearScaling | YarnScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in SCALINGS:
        raise _unsupported("rope_scaling.rope_type", kind, f"default, {', '.join(SCALINGS)}")
    try:
        return SCALINGS[kind](rope)
    except KeyError as error:
        raise UserError(
            f"config.json: rope_scaling lacks {error}; restore the published file"
        ) from None


def _llama3(rope: Mapping[str, Any]) -> RopeScaling:
    return RopeScaling(
        factor=_number(rope, "factor"),
        low_freq_factor=_number(rope, "low_freq_factor"),
        high_freq_factor=_number(rope, "high_freq_factor"),
        original_max_positions=int(rope["original_max_position_embeddings"]),
    )


def _yarn(rope: Mapping[str, Any]) -> YarnScaling:
    for field in ("mscale", "mscale_all_dim"):
        if rope.get(field) is not None:
            raise _unsupported(f"rope_scaling.{field}", rope[field], "attention_factor")
    factor = _number(rope, "factor")
    magnitude = rope.get("attention_factor")
    return YarnScaling(
        factor=factor,
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        original_max_positions=int(rope["original_max_position_embeddings"]),
        magnitude=1 + 0.1 * math.log(max(factor, 1)) if magnitude is None else float(magnitude),
        truncated=rope.get("truncate", True),
    )


SCALINGS: dict[str, Callable[[Mapping[str, Any]], RopeScaling | LinearScaling | YarnScaling]] = {
    "linear": lambda rope: LinearScaling(_number(rope, "factor")),
    "llama3": _llama3,
    "yarn": _yarn,
}
