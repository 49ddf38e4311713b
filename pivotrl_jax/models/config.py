"""Architectures as data."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3 rotary frequency scaling (the `llama3` rule of Hugging Face `rope_scaling`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True)
class ExpertConfig:
    """Experts in place of every layer's feed-forward part (Qwen3-MoE).

    Each token goes through the `active` experts that the router finds most likely, weighted by
    their probabilities, which are `normalised` to sum to 1 or not.
    """

    number: int  # X
    active: int  # J
    ffn: int  # F of one expert
    normalised: bool = True


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer: Llama, Qwen2/2.5 or Qwen3, dense or with experts.

    Letters as in `pivotrl_jax.dims`. `dtype` is that of activations and parameters; norms,
    rotary embedding, attention softmax and logits are computed in float32.
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
    rope_scaling: RopeScaling | None = None
    tied: bool = True
    qkv_bias: bool = False
    qk_norm: bool = False
    experts: ExpertConfig | None = None
    dtype: str = "float32"

    @property
    def groups(self) -> int:
        """G, the query heads that share one key/value head."""
        return self.heads // self.kv_heads
