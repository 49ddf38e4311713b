"""Published architectures, and smaller ones with the same features.

The values are those of `config.json` in the repositories of the same names of HuggingFaceTB,
meta-llama, Qwen, google and openai on the Hugging Face hub; of Gemma 3 from 4B on, of its
`text_config` with the defaults of transformers' `Gemma3TextConfig` where it is silent.
"""

import dataclasses
import math

from pivotrl_jax.errors import UserError
from pivotrl_jax.models.config import (
    ExpertConfig,
    LinearScaling,
    LocalLayers,
    ModelConfig,
    RopeScaling,
    YarnScaling,
)

SMOLLM2_135M = ModelConfig(
    name="SmolLM2-135M",
    vocab=49152,
    width=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    ffn=1536,
    rope_theta=100_000.0,
    norm_eps=1e-5,
    max_positions=8192,
)
LLAMA_3_2_1B = ModelConfig(
    name="Llama-3.2-1B",
    vocab=128256,
    width=2048,
    layers=16,
    heads=32,
    kv_heads=8,
    head_dim=64,
    ffn=8192,
    rope_theta=500_000.0,
    norm_eps=1e-5,
    max_positions=131072,
    rope_scaling=RopeScaling(
        factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    ),
)
LLAMA_3_2_3B = dataclasses.replace(
    LLAMA_3_2_1B, name="Llama-3.2-3B", width=3072, layers=28, heads=24, head_dim=128
)
LLAMA_3_1_8B = dataclasses.replace(
    LLAMA_3_2_1B,
    name="Llama-3.1-8B",
    width=4096,
    layers=32,
    head_dim=128,
    ffn=14336,
    rope_scaling=RopeScaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    ),
    tied=False,
)
LLAMA_3_1_70B = dataclasses.replace(
    LLAMA_3_1_8B, name="Llama-3.1-70B", width=8192, layers=80, heads=64, ffn=28672
)
QWEN_2_5_0_5B = ModelConfig(
    name="Qwen2.5-0.5B",
    vocab=151936,
    width=896,
    layers=24,
    heads=14,
    kv_heads=2,
    head_dim=64,
    ffn=4864,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    max_positions=32768,
    qkv_bias=True,
)
QWEN_3_0_6B = ModelConfig(
    name="Qwen3-0.6B",
    vocab=151936,
    width=1024,
    layers=28,
    heads=16,
    kv_heads=8,
    head_dim=128,
    ffn=3072,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    max_positions=40960,
    qk_norm=True,
)
QWEN_3_1_7B = dataclasses.replace(QWEN_3_0_6B, name="Qwen3-1.7B", width=2048, ffn=6144)
QWEN_3_4B = dataclasses.replace(
    QWEN_3_0_6B, name="Qwen3-4B", width=2560, layers=36, heads=32, ffn=9728
)
QWEN_3_30B_A3B = dataclasses.replace(
    QWEN_3_0_6B,
    name="Qwen3-30B-A3B",
    width=2048,
    layers=48,
    heads=32,
    kv_heads=4,
    ffn=6144,
    tied=False,
    experts=ExpertConfig(number=128, active=8, ffn=768),
)
QWEN_3_8B = dataclasses.replace(QWEN_3_4B, name="Qwen3-8B", width=4096, ffn=12288, tied=False)
QWEN_3_14B = dataclasses.replace(
    QWEN_3_8B, name="Qwen3-14B", width=5120, layers=40, heads=40, ffn=17408
)
QWEN_3_32B = dataclasses.replace(QWEN_3_14B, name="Qwen3-32B", layers=64, heads=64, ffn=25600)
GEMMA_3_270M = ModelConfig(
    name="gemma-3-270m",
    vocab=262144,
    width=640,
    layers=18,
    heads=4,
    kv_heads=1,
    head_dim=256,
    ffn=2048,
    rope_theta=1_000_000.0,
    norm_eps=1e-6,
    max_positions=32768,
    qk_norm=True,
    local=LocalLayers(window=512, period=6, rope_theta=10_000.0),
    activation="gelu_tanh",
    norm_offset=1.0,
    post_norms=True,
    scaled_embed=True,
    query_scalar=256,
)
GEMMA_3_1B = dataclasses.replace(GEMMA_3_270M, name="gemma-3-1b", width=1152, layers=26, ffn=6912)
GEMMA_3_4B = dataclasses.replace(
    GEMMA_3_270M,
    name="gemma-3-4b",
    vocab=262208,
    width=2560,
    layers=34,
    heads=8,
    kv_heads=4,
    ffn=10240,
    max_positions=131072,
    rope_scaling=LinearScaling(8.0),
    local=LocalLayers(window=1024, period=6, rope_theta=10_000.0),
)
GEMMA_3_12B = dataclasses.replace(
    GEMMA_3_4B, name="gemma-3-12b", width=3840, layers=48, heads=16, kv_heads=8, ffn=15360
)
GEMMA_3_27B = dataclasses.replace(
    GEMMA_3_12B,
    name="gemma-3-27b",
    width=5376,
    layers=62,
    heads=32,
    kv_heads=16,
    head_dim=128,
    ffn=21504,
    query_scalar=168,
)
GPT_OSS_20B = ModelConfig(
    name="gpt-oss-20b",
    vocab=201088,
    width=2880,
    layers=24,
    heads=64,
    kv_heads=8,
    head_dim=64,
    ffn=2880,
    rope_theta=150_000.0,
    norm_eps=1e-5,
    max_positions=131072,
    rope_scaling=YarnScaling(
        factor=32.0,
        beta_fast=32.0,
        beta_slow=1.0,
        original_max_positions=4096,
        magnitude=1 + 0.1 * math.log(32),
        truncated=False,
    ),
    tied=False,
    qkv_bias=True,
    o_bias=True,
    sinks=True,
    local=LocalLayers(window=128, period=2, rope_theta=None),
    experts=ExpertConfig(number=32, active=4, ffn=2880, bias=True, limit=7.0),
)
GPT_OSS_120B = dataclasses.replace(
    GPT_OSS_20B,
    name="gpt-oss-120b",
    layers=36,
    experts=ExpertConfig(number=128, active=4, ffn=2880, bias=True, limit=7.0),
)

PUBLISHED = (
    SMOLLM2_135M, LLAMA_3_2_1B, LLAMA_3_2_3B, LLAMA_3_1_8B, LLAMA_3_1_70B, QWEN_2_5_0_5B,
    QWEN_3_0_6B, QWEN_3_1_7B, QWEN_3_4B, QWEN_3_8B, QWEN_3_14B, QWEN_3_32B, QWEN_3_30B_A3B,
    GEMMA_3_270M, GEMMA_3_1B, GEMMA_3_4B, GEMMA_3_12B, GEMMA_3_27B,
    GPT_OSS_20B, GPT_OSS_120B,
)  # fmt: skip


def published(name: str, dtype: str) -> ModelConfig:
    """The architecture of a model by its name, `hub:owner/name` too, or of one made from it.

    Later ones of a family begin with its name, as Qwen3-30B-A3B-Thinking-2507 does. Raises
    UserError for one that is not here.
    """
    own = name.removeprefix("hub:").rpartition("/")[2]
    found = [cfg for cfg in PUBLISHED if own.startswith(cfg.name)]
    if not found:
        known = ", ".join(cfg.name for cfg in PUBLISHED)
        raise UserError(f"the architecture of {name!r} is not known without its files; use {known}")
    return dataclasses.replace(max(found, key=lambda cfg: len(cfg.name)), dtype=dtype)


def shrink(
    cfg: ModelConfig,
    *,
    vocab: int,
    width: int,
    layers: int,
    kv_heads: int,
    head_dim: int,
    ffn: int,
    window: int = 8,
) -> ModelConfig:
    """A small model with all features of `cfg`: query groups, tying, biases, norms, scaling.

    Of experts there are eight of width `ffn`, two of them active, with a limit, if any, that small
    activations come to; `window` is that of local layers.
    """
    few = cfg.experts
    if few is not None:
        limit = few.limit and 1.5
        few = dataclasses.replace(few, number=8, active=2, ffn=ffn, limit=limit)
    scalar = cfg.query_scalar and cfg.query_scalar * head_dim // cfg.head_dim
    return dataclasses.replace(
        cfg,
        name=f"{cfg.name}-shrunken",
        vocab=vocab,
        width=width,
        layers=layers,
        heads=kv_heads * cfg.groups,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        local=cfg.local and dataclasses.replace(cfg.local, window=window),
        query_scalar=scalar,
        experts=few,
    )
