"""Weights and configurations in the layout of Hugging Face transformers, in and out."""

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
from safetensors.numpy import save_file

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import weights
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.hf_config import config_from_hf, config_to_hf
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
FLOATS = {"F64", "F32", "F16", "BF16"}
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def read_config(directory: Path) -> ModelConfig:
    """`config_from_hf` of a directory's `config.json`, named after the directory."""
    path = directory / "config.json"
    try:
        config_json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); download it again") from None
    return config_from_hf(config_json, name=directory.name)


def load(directory: Path, cfg: ModelConfig, shardings: Params | None = None) -> Params:
    """Parameters in `cfg.dtype` from the safetensors files of a directory, tensor by tensor.

    Raises UserError naming the tensor, the shapes and the file when something does not fit.
    """
    files = {name: file for file in _open_all(directory) for name in file.keys()}  # noqa: SIM118
    if cfg.tied:  # some exporters write the tied head a second time
        files.pop(NAMES["head"], None)
    slices = {name: file.get_slice(name) for name, file in files.items()}
    for name, tensor in slices.items():
        if tensor.get_dtype() not in FLOATS:
            raise UserError(
                f"{directory}: tensor {name} has dtype {tensor.get_dtype()}, expected one of "
                f"{', '.join(sorted(FLOATS))}; use the weights that are not quantised"
            )
    found = {name: tuple(tensor.get_shape()) for name, tensor in slices.items()}
    weights.check_shapes(cfg, NAMES, found, directory)
    return weights.assemble(cfg, NAMES, lambda name: files[name].get_tensor(name), shardings)


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory: those its index names, or the single one."""
    index = directory / INDEX
    if not index.exists():
        return [directory / SINGLE]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise UserError(f"{index} is no safetensors index; download it again") from None
    return [directory / name for name in sorted(names)]


def _open_all(directory: Path) -> list[Any]:
    files = []
    for path in weight_files(directory):
        try:
            files.append(safetensors.safe_open(path, framework="numpy"))
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{path} cannot be read as safetensors ({error}); download it again"
            ) from None
    return files


def save(
    directory: Path,
    params: Params,
    cfg: ModelConfig,
    tokenizer_files: Mapping[str, bytes] = MappingProxyType({}),
    eos_token_id: int | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a directory that transformers and other engines load, in the dtype of `params`.

    One `model.safetensors`, or several and their index where it would exceed `shard_bytes`;
    host memory holds one of them at a time. All shards of `params` must be addressable from this
    process. Raises UserError when the disk refuses.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _save_weights(directory, params, cfg, shard_bytes)
        for name, content in tokenizer_files.items():
            (directory / name).write_bytes(content)
        config_json = json.dumps(config_to_hf(cfg, eos_token_id), indent=2)
        (directory / "config.json").write_text(config_json + "\n", encoding="utf-8")
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"cannot write the model to {directory} ({error}); free space or choose another place"
        ) from None


def _save_weights(directory: Path, params: Params, cfg: ModelConfig, shard_bytes: int) -> None:
    item = params.embed.dtype.itemsize
    sizes = {k: item * math.prod(s) for k, s in weights.tensor_shapes(cfg, NAMES).items()}
    shards = _split(sizes, shard_bytes)
    tensors = weights.disassemble(params, cfg, NAMES)
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else SINGLE
        weight_map |= dict.fromkeys(names, file)
        save_file(
            dict(itertools.islice(tensors, len(names))),
            directory / file,
            metadata={"format": "pt"},  # transformers refuses a file without it
        )
    (directory / INDEX).unlink(missing_ok=True)  # of an earlier export, it would win over ours
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _split(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Groups names in order so that no group of more than one exceeds `limit` bytes."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups
