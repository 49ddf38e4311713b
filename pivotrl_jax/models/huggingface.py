"""Weights and configurations in the layout of Hugging Face transformers, in and out."""

import collections
import json
import operator
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import safetensors, weights
from pivotrl_jax.models.config import ModelConfig, RopeScaling
from pivotrl_jax.models.params import Params

NAMES = {
    "embed": "model.embed_tokens.weight",
    "attn_norm": "model.layers.{}.input_layernorm.weight",
    "q": "model.layers.{}.self_attn.q_proj.weight",
    "k": "model.layers.{}.self_attn.k_proj.weight",
    "v": "model.layers.{}.self_attn.v_proj.weight",
    "o": "model.layers.{}.self_attn.o_proj.weight",
    "q_bias": "model.layers.{}.self_attn.q_proj.bias",
    "k_bias": "model.layers.{}.self_attn.k_proj.bias",
    "v_bias": "model.layers.{}.self_attn.v_proj.bias",
    "q_norm": "model.layers.{}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{}.self_attn.k_norm.weight",
    "ffn_norm": "model.layers.{}.post_attention_layernorm.weight",
    "gate": "model.layers.{}.mlp.gate_proj.weight",
    "up": "model.layers.{}.mlp.up_proj.weight",
    "down": "model.layers.{}.mlp.down_proj.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
# What a field must be for the model to be one of ours; absent counts as the first value.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1.0,),
    "quantization_config": (None,),
}
CONFIG = "config.json"
STAGED = ".partial"


def config_from_hf(config_json: Mapping[str, Any], name: str = "") -> ModelConfig:
    """The architecture of a `config.json`; UserError names the field that is not supported."""
    family = config_json.get("model_type")
    if family not in ("llama", "qwen2", "qwen3"):
        raise _unsupported("model_type", family, "llama, qwen2 or qwen3")
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
        head_dim=config_json.get("head_dim") or (128 if family == "qwen3" else width // heads),
        ffn=_field(config_json, "intermediate_size"),
        rope_theta=float(rope.get("rope_theta", 10_000.0)),
        norm_eps=float(config_json.get("rms_norm_eps", 1e-6)),
        max_positions=_field(config_json, "max_position_embeddings"),
        rope_scaling=_rope_scaling(rope),
        tied=config_json.get("tie_word_embeddings", False),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        dtype=config_json.get("dtype") or config_json.get("torch_dtype") or "float32",
    )


def _unsupported(field: str, value: object, wanted: str) -> UserError:
    return UserError(f"config.json: {field} is {value!r}, which is not supported; use {wanted}")


def _field(config_json: Mapping[str, Any], field: str) -> int:
    if not isinstance(config_json.get(field), int):
        raise UserError(f"config.json: {field} must be an integer; restore the published file")
    return config_json[field]


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
    family, model_class = "llama", "LlamaForCausalLM"
    if cfg.qkv_bias:
        family, model_class = "qwen2", "Qwen2ForCausalLM"
    if cfg.qk_norm:
        family, model_class = "qwen3", "Qwen3ForCausalLM"
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
        "torch_dtype": cfg.dtype,
        # Written even when unknown, because transformers' own defaults are ids of Llama 2.
        "bos_token_id": None,
        "eos_token_id": eos_token_id,
    }


def read_config(directory: Path) -> ModelConfig:
    """`config_from_hf` of a directory's `config.json`, named after the directory."""
    path = directory / CONFIG
    try:
        config_json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); download it again") from None
    return config_from_hf(config_json, name=directory.name)


def load(directory: Path, cfg: ModelConfig, shardings: Params | None = None) -> Params:
    """Parameters in `cfg.dtype` from the safetensors files of a directory, tensor by tensor.

    Raises UserError naming the tensor, the shapes and the file when something does not fit.
    """
    found = {
        k: v
        for path in safetensors.weight_files(directory)
        for k, v in safetensors.tensors(path).items()
    }
    if cfg.tied:  # some exporters write the tied head a second time
        found.pop(NAMES["head"], None)
    for name, tensor in found.items():
        if tensor.dtype not in safetensors.FLOATS:
            raise UserError(
                f"{tensor.path}: tensor {name} has dtype {tensor.dtype}, expected one of "
                f"{', '.join(sorted(safetensors.FLOATS))}; use the weights that are not quantised"
            )
    weights.check_shapes(cfg, NAMES, {k: tensor.shape for k, tensor in found.items()}, directory)
    try:
        return weights.assemble(cfg, NAMES, lambda k, part: found[k].read(part), shardings)
    except OSError as error:
        raise UserError(f"{directory} cannot be read ({error}); download it again") from None


def save(
    directory: Path,
    params: Params,
    cfg: ModelConfig,
    tokenizer_files: Mapping[str, bytes] = MappingProxyType({}),
    eos_token_id: int | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a directory that transformers and other engines load, in the dtype of `params`.

    One `model.safetensors`, or several and their index where it would exceed `shard_bytes`. Host
    memory holds one tensor at a time. All processes call it and the first one writes. What is half
    written is no model: `config.json` comes last. Raises UserError when the disk refuses.
    """
    tensors = weights.disassemble(params, cfg, NAMES)
    if jax.process_index() > 0:
        collections.deque(tensors, maxlen=0)
    else:
        shapes = weights.tensor_shapes(cfg, NAMES)
        specs = {k: jax.ShapeDtypeStruct(v, params.embed.dtype) for k, v in shapes.items()}
        config = json.dumps(config_to_hf(cfg, eos_token_id), indent=2) + "\n"
        small = {**tokenizer_files, CONFIG: config.encode()}
        arrays = map(operator.itemgetter(1), tensors)  # keeps none of them, a generator would
        _write(directory, specs, arrays, small, shard_bytes)
    multihost_utils.sync_global_devices("huggingface.save")


def _write(
    directory: Path,
    specs: Mapping[str, jax.ShapeDtypeStruct],
    tensors: Iterator[np.ndarray],
    small: Mapping[str, bytes],
    shard_bytes: int,
) -> None:
    """Writes all files beside those of `directory`, then moves them in."""
    staged = directory / STAGED
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        safetensors.write_all(staged, specs, tensors, shard_bytes)
        for name, content in small.items():
            (staged / name).write_bytes(content)
        _publish(staged, directory)
    except OSError as error:
        raise UserError(
            f"cannot write the model to {directory} ({error}); free space or choose another place"
        ) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _publish(staged: Path, directory: Path) -> None:
    """Puts an export in the place of an earlier one, whose weights and index go first."""
    (directory / CONFIG).unlink(missing_ok=True)
    for path in directory.glob("model*.safetensors*"):
        path.unlink()
    for path in sorted(staged.iterdir(), key=lambda path: path.name == CONFIG):
        path.replace(directory / path.name)
