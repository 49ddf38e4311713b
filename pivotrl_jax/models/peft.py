"""Adapters in the layout of the PEFT library, in and out: adapter_config.json and one safetensors
file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import weights
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.huggingface import NAMES
from pivotrl_jax.models.lora import Adapters, LoraSettings, adapter_shapes
from pivotrl_jax.parallel import fetch, first

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields of the configuration that would make it another adapter than ours.
PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "peft_type": "LORA",
        "bias": "none",
        "fan_in_fan_out": False,
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
    }
)


def _tensor(target: str, layer: int, side: str) -> str:
    """`...layers.0.self_attn.q_proj.lora_A.weight` of target q, layer 0 and side A."""
    module = NAMES[target].format(layer).removesuffix(".weight")
    return f"base_model.model.{module}.lora_{side}.weight"


def _shapes(cfg: ModelConfig, settings: LoraSettings) -> dict[str, tuple[int, int]]:
    """Every tensor of the file: A [rank, in] and B [out, rank]."""
    found = {}
    for target in settings.targets:
        outer, inner = weights.file_shapes(cfg)[target]
        for layer in range(cfg.layers):
            found[_tensor(target, layer, "A")] = (settings.rank, inner)
            found[_tensor(target, layer, "B")] = (outer, settings.rank)
    return found


def config_of(settings: LoraSettings, base: str) -> dict[str, Any]:
    """The `adapter_config.json` of adapters of the model `base`."""
    return {
        **PLAIN,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "use_rslora": settings.rslora,
        "target_modules": [NAMES[target].split(".")[-2] for target in settings.targets],
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def save(
    directory: Path, adapters: Adapters, cfg: ModelConfig, settings: LoraSettings, base: str
) -> None:
    """Writes a directory that `peft.PeftModel.from_pretrained` loads onto the model `base`.

    `base` is a name as `models.pretrained.resolve` takes it. All processes take part, and the first
    one writes. Raises UserError when the disk refuses.
    """
    config = json.dumps(config_of(settings, base.removeprefix("hub:")), indent=2)
    matrices = dict(_matrices(adapters))
    if not first():
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(matrices, directory / WEIGHTS, metadata={"format": "pt"})
        (directory / CONFIG).write_text(config + "\n", encoding="utf-8")
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"cannot write the adapter to {directory} ({error}); free space or choose another place"
        ) from None


def _matrices(adapters: Adapters) -> Iterator[tuple[str, np.ndarray]]:
    for target, own in adapters.factors.items():
        a, b = fetch((own.a, own.b))
        for layer in range(len(a)):
            rank = a.shape[-1]
            yield _tensor(target, layer, "A"), np.ascontiguousarray(a[layer].reshape(-1, rank).T)
            yield _tensor(target, layer, "B"), np.ascontiguousarray(b[layer].reshape(rank, -1).T)


def load(
    directory: Path, cfg: ModelConfig, settings: LoraSettings, shardings: Adapters | None = None
) -> Adapters:
    """The adapters of a PEFT directory, which must be those that `settings` describe, in float32.

    Raises UserError naming the field or the tensor that does not fit.
    """
    _check_config(directory / CONFIG, settings)
    path = directory / WEIGHTS
    try:
        found = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error})") from None
    _check_tensors(path, {name: x.shape for name, x in found.items()}, _shapes(cfg, settings))

    def stacked(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        target, side = path[1].key, path[2].name.upper()
        layers = [found[_tensor(target, layer, side)].T for layer in range(cfg.layers)]
        return np.stack(layers).astype(leaf.dtype).reshape(leaf.shape)

    host = jax.tree.map_with_path(stacked, adapter_shapes(cfg, settings))
    return jax.device_put(host, shardings)


def _check_config(path: Path, settings: LoraSettings) -> None:
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from None
    for field, plain in PLAIN.items():
        if (config.get(field) or plain) != plain:
            raise UserError(f"{path}: {field} is {config[field]!r}, which is not supported")
    wanted = {"r": settings.rank, "lora_alpha": settings.alpha, "use_rslora": settings.rslora}
    for (field, value), own in zip(wanted.items(), ("rank", "alpha", "rslora"), strict=True):
        if config.get(field, False) != value:
            raise UserError(
                f"{path}: {field} is {config.get(field)!r}, but lora.{own} is {value!r}; "
                f"set lora.{own} to it"
            )


def _check_tensors(
    path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"{path}: tensor {name} has shape {found.get(name)}, and {expected.get(name)} is "
                "expected (None: no such tensor); name its projections in lora.targets, and the "
                "model it was trained for in model.name"
            )
