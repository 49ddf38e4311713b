"""Weights and configurations in the layout of Hugging Face transformers, in and out."""

import collections
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
from jax.experimental import multihost_utils

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import fused, safetensors, weights
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.hf_config import config_from_hf
from pivotrl_jax.models.hf_export import config_to_hf
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
    "router": "model.layers.{}.mlp.gate.weight",
    "expert_gate": "model.layers.{}.mlp.experts.{}.gate_proj.weight",
    "expert_up": "model.layers.{}.mlp.experts.{}.up_proj.weight",
    "expert_down": "model.layers.{}.mlp.experts.{}.down_proj.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
POST_NORM_NAMES = NAMES | {
    "attn_post_norm": "model.layers.{}.post_attention_layernorm.weight",
    "ffn_norm": "model.layers.{}.pre_feedforward_layernorm.weight",
    "ffn_post_norm": "model.layers.{}.post_feedforward_layernorm.weight",
}
GPT_OSS_NAMES = NAMES | {
    "o_bias": "model.layers.{}.self_attn.o_proj.bias",
    "sinks": "model.layers.{}.self_attn.sinks",
    "router": "model.layers.{}.mlp.router.weight",
    "router_bias": "model.layers.{}.mlp.router.bias",
    "expert_gate_bias": "model.layers.{}.mlp.experts.{}.gate_proj.bias",
    "expert_up_bias": "model.layers.{}.mlp.experts.{}.up_proj.bias",
    "expert_down_bias": "model.layers.{}.mlp.experts.{}.down_proj.bias",
}
# Of models that read images too (gemma3), as transformers writes them, and has them in memory.
IMAGES = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")
TEXT = re.compile(r"(model\.)?language_model\.(model\.)?")
CONFIG = "config.json"
STAGED = ".partial"


def names_of(cfg: ModelConfig) -> weights.Names:
    """The table of tensor names of a family."""
    if cfg.sinks:
        return GPT_OSS_NAMES
    return POST_NORM_NAMES if cfg.post_norms else NAMES


def text_name(name: str) -> str | None:
    """A tensor's name in a model that reads text alone; None if it is for images."""
    if IMAGES.match(name):
        return None
    own = TEXT.sub("", name, count=1) if TEXT.match(name) else name
    return own if own == name or own == NAMES["head"] else f"model.{own}"


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
    stored = {
        own: v
        for path in safetensors.weight_files(directory)
        for k, v in safetensors.tensors(path).items()
        if (own := text_name(k))
    }
    found = fused.split(stored) if cfg.sinks else dict(stored)
    if cfg.tied:  # some exporters write the tied head a second time
        found.pop(NAMES["head"], None)
    for name, tensor in found.items():
        if tensor.dtype not in safetensors.FLOATS:
            raise UserError(
                f"{tensor.path}: tensor {name} has dtype {tensor.dtype}, expected one of "
                f"{', '.join(sorted(safetensors.FLOATS))}; use the weights that are not quantised, "
                "or, of gpt-oss in four bits, all of its _blocks and _scales"
            )
    names = names_of(cfg)
    found_shapes = {k: tensor.shape for k, tensor in found.items()}
    file_of = fused.file_of if cfg.sinks else str
    weights.check_shapes(cfg, names, found_shapes, directory, file_of)
    try:
        return weights.assemble(cfg, names, lambda k, part: found[k].read(part), shardings)
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
    names = names_of(cfg)
    shapes = weights.tensor_shapes(cfg, names)
    content = fused.files(shapes) if cfg.sinks else {name: [name] for name in shapes}
    arrays = weights.disassemble(params, cfg, names, itertools.chain(*content.values()))
    if jax.process_index() > 0:
        collections.deque(arrays, maxlen=0)
    else:
        specs = {
            file: jax.ShapeDtypeStruct(fused.shape(file, own, shapes), params.embed.dtype)
            for file, own in content.items()
        }
        config = json.dumps(config_to_hf(cfg, eos_token_id), indent=2) + "\n"
        small = {**tokenizer_files, CONFIG: config.encode()}
        _write(directory, specs, fused.gathered(content, shapes, arrays), small, shard_bytes)
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
