"""Weights, configuration and tokenizer out of a GGUF file (llama.cpp's format)."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import weights
from pivotrl_jax.models.config import ModelConfig, RopeScaling
from pivotrl_jax.models.params import Params
from pivotrl_jax.models.transformer import rope_frequencies
from pivotrl_jax.text.tokenizer import BpeTokenizer

NAMES = {
    "embed": "token_embd.weight",
    "attn_norm": "blk.{}.attn_norm.weight",
    "q": "blk.{}.attn_q.weight",
    "k": "blk.{}.attn_k.weight",
    "v": "blk.{}.attn_v.weight",
    "o": "blk.{}.attn_output.weight",
    "q_bias": "blk.{}.attn_q.bias",
    "k_bias": "blk.{}.attn_k.bias",
    "v_bias": "blk.{}.attn_v.bias",
    "q_norm": "blk.{}.attn_q_norm.weight",
    "k_norm": "blk.{}.attn_k_norm.weight",
    "ffn_norm": "blk.{}.ffn_norm.weight",
    "gate": "blk.{}.ffn_gate.weight",
    "up": "blk.{}.ffn_up.weight",
    "down": "blk.{}.ffn_down.weight",
    "final_norm": "output_norm.weight",
    "head": "output.weight",
}
ROPE_FACTORS = "rope_freqs.weight"
REQUIRED = object()


class GgufFile:
    """An open GGUF file. Parsing its header takes seconds, so open it once."""

    def __init__(self, path: Path):
        """Raises UserError when the file is missing, cut short or not GGUF."""
        self.path = path
        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError, LookupError, ArithmeticError, TypeError) as error:
            raise UserError(f"{path} cannot be read as GGUF ({error}); download it again") from None
        self._fields = reader.fields
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def field(self, key: str, default: Any = REQUIRED) -> Any:
        """A metadata value; UserError when it is absent and has no default."""
        if key in self._fields:
            return self._fields[key].contents()
        if default is REQUIRED:
            raise UserError(f"{self.path} has no field {key}; use a complete GGUF model file")
        return default

    def config(self, dtype: str = "float32") -> ModelConfig:
        """The architecture; UserError names the field that is not supported."""
        arch = self.field("general.architecture")
        if arch not in ("llama", "qwen2", "qwen3"):
            raise self._unsupported("general.architecture", arch, "llama, qwen2 or qwen3")
        if NAMES["embed"] not in self._tensors:
            raise UserError(f"{self.path} has no tensor {NAMES['embed']}; download it again")

        def field(key: str, default: Any = REQUIRED) -> Any:
            return self.field(f"{arch}.{key}", default)

        width, heads = field("embedding_length"), field("attention.head_count")
        head_dim = field("attention.key_length", width // heads)
        for key, wanted in {
            "rope.scaling.type": "none",
            "rope.dimension_count": head_dim,
            "expert_count": 0,
        }.items():
            if field(key, wanted) != wanted:
                raise self._unsupported(f"{arch}.{key}", field(key), repr(wanted))
        cfg = ModelConfig(
            name=self.path.stem,
            vocab=int(self._tensors[NAMES["embed"]].shape[-1]),
            width=width,
            layers=field("block_count"),
            heads=heads,
            kv_heads=field("attention.head_count_kv", heads),
            head_dim=head_dim,
            ffn=field("feed_forward_length"),
            rope_theta=field("rope.freq_base", 10_000.0),
            norm_eps=_shortest(field("attention.layer_norm_rms_epsilon")),
            max_positions=field("context_length"),
            tied=NAMES["head"] not in self._tensors,
            qkv_bias=arch == "qwen2",
            qk_norm=arch == "qwen3",
            dtype=dtype,
        )
        return dataclasses.replace(cfg, rope_scaling=self._rope_scaling(cfg))

    def load(self, cfg: ModelConfig, shardings: Params | None = None) -> Params:
        """Dequantised parameters in `cfg.dtype`; UserError names a tensor that does not fit."""
        found = {
            name: tuple(int(n) for n in reversed(tensor.shape))
            for name, tensor in self._tensors.items()
            if name != ROPE_FACTORS
        }
        weights.check_shapes(cfg, NAMES, found, self.path)
        paired = self.field("general.architecture") == "llama"

        # Devices that hold other columns of the same rows ask for them one after another.
        @functools.lru_cache(maxsize=8)
        def rows(name: str, start: int, stop: int) -> np.ndarray:
            found = self._dequantised(name, slice(start, stop))
            if paired and name.endswith(("attn_q.weight", "attn_k.weight")):
                return _halves_from_pairs(found, cfg.head_dim)
            return found

        def read(name: str, part: tuple[slice, ...]) -> np.ndarray:
            return rows(name, part[0].start, part[0].stop)[(slice(None), *part[1:])]

        return weights.assemble(cfg, NAMES, read, shardings)

    def tokenizer(self) -> BpeTokenizer:
        """The byte-level BPE tokenizer inside; UserError when it is of another kind."""
        model = self.field("tokenizer.ggml.model")
        if model != "gpt2":
            raise self._unsupported("tokenizer.ggml.model", model, "gpt2 (byte-level BPE)")
        return BpeTokenizer.from_gguf(
            tokens=self.field("tokenizer.ggml.tokens"),
            merges=self.field("tokenizer.ggml.merges"),
            token_types=self.field("tokenizer.ggml.token_type"),
            pre=self.field("tokenizer.ggml.pre"),
            eos_id=self.field("tokenizer.ggml.eos_token_id"),
            chat_template=self.field("tokenizer.chat_template", None),
            bos_id=self.field("tokenizer.ggml.bos_token_id", None),
        )

    def _unsupported(self, field: str, value: object, wanted: str) -> UserError:
        return UserError(f"{self.path}: {field} is {value!r}, which is not supported; use {wanted}")

    def _dequantised(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        tensor = self._tensors[name]
        try:
            return gguf.quants.dequantize(tensor.data[rows], tensor.tensor_type)
        except NotImplementedError:
            raise self._unsupported(name, tensor.tensor_type.name, "Q8_0 or F16 weights") from None

    def _rope_scaling(self, cfg: ModelConfig) -> RopeScaling | None:
        """Recognises Llama 3 scaling, of which GGUF keeps only the resulting divisors."""
        if ROPE_FACTORS not in self._tensors:
            return None
        divisors = self._dequantised(ROPE_FACTORS)
        scaling = RopeScaling(float(divisors.max()), 1.0, 4.0, 8192)
        scaled = rope_frequencies(dataclasses.replace(cfg, rope_scaling=scaling))
        if not np.allclose(rope_frequencies(cfg) / scaled, divisors, rtol=1e-4):
            raise self._unsupported(ROPE_FACTORS, "custom", "a model with Llama 3.1 rope scaling")
        return scaling


def _shortest(value: float) -> float:
    """The decimal that was meant: GGUF stores floats in single precision."""
    return float(str(np.float32(value)))


def _halves_from_pairs(matrix: np.ndarray, head_dim: int) -> np.ndarray:
    """Undoes llama.cpp's order of q and k rows, in which rotated pairs are neighbours.

    Rows [heads * E, D] of each head go from (pair, half) to (half, pair), the layout of
    `transformer.rotate`.
    """
    rows = matrix.reshape(-1, head_dim // 2, 2, matrix.shape[-1])
    return rows.swapaxes(1, 2).reshape(matrix.shape)
