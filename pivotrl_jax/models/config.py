"""Architectures as data."""

import dataclasses
from typing import Literal

Precision = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3 rotary frequency scaling (the `llama3` rule of Hugging Face `rope_scaling`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Every rotary frequency divided by `factor` (the `linear` rule of Hugging Face)."""

    factor: float


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al. 2023, arXiv 2309.00071; the `yarn` rule of Hugging Face).

    A frequency that turns up to `beta_slow` times within the original positions is divided by
    `factor`, one that turns `beta_fast` times or more is kept, and those between are blended, from
    a whole pair to a whole pair where `truncated`. Queries and keys are multiplied by `magnitude`.
    """

    factor: float
    beta_fast: float
    beta_slow: float
    original_max_positions: int
    magnitude: float
    truncated: bool = True


@dataclasses.dataclass(frozen=True)
class LocalLayers:
    """Sliding-window attention in all layers but every `period`-th one, which sees everything.

    A local layer's token sees itself and the `window - 1` tokens before it. `rope_theta` is the
    rotary base of local layers, whose frequencies are then never scaled; None: local layers rotate
    as the others do.
    """

    window: int
    period: int
    rope_theta: float | None


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """Experts in place of every layer's feed-forward part (Qwen3-MoE, gpt-oss).

    Each token goes through the `active` experts that the router finds most likely, weighted by
    their probabilities, which are `normalised` to sum to 1 or not. With `bias` router and experts
    have one. A `limit` clamps what their gates let through: see `experts.gated`.
    """

    number: int  # X
    active: int  # J
    ffn: int  # F of one expert
    normalised: bool = True
    bias: bool = False
    limit: float | None = None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer: Llama, Qwen2/2.5, Qwen3, dense or with experts, Gemma 3,
    or gpt-oss.

    Letters as in `pivotrl_jax.dims`. `dtype` is that of activations and parameters; norms,
    rotary embedding, attention softmax and logits are computed in float32. A `matmul_precision` of
    "bfloat16" rounds the operands of projections, attention and head, and of their gradients, to
    bfloat16 where activations and parameters are float32, as JAX does on TPUs by itself; experts,
    routers and adapters stay as they are.
    """

    name: str
    vocab: int  # V
    width: int  # D
    layers: int  # N
    heads: int  # H * G
    kv_heads: int  # H
    head_dim: int  # E
    ffn: int  # F; with `experts` no layer has this one
    rope_theta: float
    norm_eps: float
    max_positions: int
    rope_scaling: RopeScaling | LinearScaling | YarnScaling | None = None
    tied: bool = True
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    sinks: bool = False  # a learned score of every head joins each softmax of its attention
    local: LocalLayers | None = None
    activation: Literal["silu", "gelu_tanh"] = "silu"
    norm_offset: float = 0.0  # norms multiply by this plus their parameter
    post_norms: bool = False  # also after attention and feed-forward, before the residual sum
    scaled_embed: bool = False  # embeddings times sqrt(D), itself rounded to `dtype`
    query_scalar: int | None = None  # scores are divided by its square root; None: by sqrt(E)
    experts: ExpertConfig | None = None
    dtype: str = "float32"
    matmul_precision: Precision = "float32"

    @property
    def groups(self) -> int:
        """G, the query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def operand_dtype(self) -> str:
        """Of queries, keys, values, final hidden states and the head that these meet."""
        return "bfloat16" if self.matmul_precision == "bfloat16" else self.dtype
