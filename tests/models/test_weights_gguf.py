"""GGUF files, written here from golden weights in the way llama.cpp's converter does."""

from pathlib import Path

import gguf
import jax
import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import huggingface
from pivotrl_jax.models.config import ModelConfig
from pivotrl_jax.models.gguf import NAMES, GgufFile
from pivotrl_jax.models.transformer import rope_frequencies
from pivotrl_jax.models.weights import disassemble, tensor_shapes

GOLDEN = Path(__file__).parent / "golden"


def llama_cpp_permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def llama_cpp_rope_factors(cfg: ModelConfig) -> np.ndarray:
    """`generate_extra_tensors` of llama.cpp's converter for Llama 3."""
    scaling, factors = cfg.rope_scaling, []
    for i in range(0, cfg.head_dim, 2):
        wavelength = 2 * np.pi * cfg.rope_theta ** (i / cfg.head_dim)
        turns = scaling.original_max_positions / wavelength
        if turns > scaling.high_freq_factor:
            factors.append(1.0)
        elif turns < scaling.low_freq_factor:
            factors.append(scaling.factor)
        else:
            span = scaling.high_freq_factor - scaling.low_freq_factor
            smooth = (turns - scaling.low_freq_factor) / span
            factors.append(1 / ((1 - smooth) / scaling.factor + smooth))
    return np.array(factors, np.float32)


def write(
    path: Path,
    name: str,
    arch: str,
    tensors: dict[str, np.ndarray | None] | None = None,
    fields: dict[str, str] | None = None,
) -> ModelConfig:
    """Writes golden model `name`; `tensors` replaces some (None leaves one out)."""
    cfg = huggingface.read_config(GOLDEN / name)
    params = huggingface.load(GOLDEN / name, cfg)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(cfg.max_positions)
    writer.add_embedding_length(cfg.width)
    writer.add_block_count(cfg.layers)
    writer.add_feed_forward_length(cfg.ffn)
    writer.add_head_count(cfg.heads)
    writer.add_head_count_kv(cfg.kv_heads)
    writer.add_key_length(cfg.head_dim)
    writer.add_rope_freq_base(cfg.rope_theta)
    writer.add_layer_norm_rms_eps(cfg.norm_eps)
    for key, value in (fields or {}).items():
        writer.add_string(key, value)
    arrays = disassemble(params, cfg, NAMES)
    content = dict(zip(tensor_shapes(cfg, NAMES), arrays, strict=True))
    for key in content:
        if arch == "llama" and "attn_q." in key:
            content[key] = llama_cpp_permute(content[key], cfg.heads)
        if arch == "llama" and "attn_k." in key:
            content[key] = llama_cpp_permute(content[key], cfg.kv_heads)
    if cfg.rope_scaling is not None:
        content["rope_freqs.weight"] = llama_cpp_rope_factors(cfg)
    for key, array in (content | (tensors or {})).items():
        if array is not None:
            writer.add_tensor(key, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return cfg


@pytest.mark.parametrize(
    ("name", "arch"),
    [("smollm2", "llama"), ("llama31", "llama"), ("qwen25", "qwen2"), ("qwen3", "qwen3")],
)
def test_gguf_and_hugging_face_give_the_same_model(name, arch, tmp_path):
    cfg = write(tmp_path / f"{name}.gguf", name, arch)
    file = GgufFile(tmp_path / f"{name}.gguf")
    assert file.config() == cfg
    jax.tree.map(
        np.testing.assert_array_equal, file.load(cfg), huggingface.load(GOLDEN / name, cfg)
    )


def test_loads_in_another_dtype_with_a_sharding(tmp_path):
    write(tmp_path / "m.gguf", "smollm2", "llama")
    file = GgufFile(tmp_path / "m.gguf")
    cfg = file.config("bfloat16")
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    plain = file.load(cfg)
    params = file.load(cfg, jax.tree.map(lambda _: whole, plain).replace(embed=split))
    assert params.embed.dtype == "bfloat16"
    assert params.embed.sharding == split
    jax.tree.map(np.testing.assert_array_equal, params, plain)


def test_rope_factors_are_told_from_other_scalings(tmp_path):
    cfg = write(tmp_path / "m.gguf", "llama31", "llama")
    scaled = GgufFile(tmp_path / "m.gguf").config()
    np.testing.assert_array_equal(rope_frequencies(scaled), rope_frequencies(cfg))

    other = np.linspace(1, 4, cfg.head_dim // 2, dtype=np.float32)
    write(tmp_path / "other.gguf", "llama31", "llama", {"rope_freqs.weight": other})
    with pytest.raises(UserError, match=r"other.gguf: rope_freqs.weight is 'custom'"):
        GgufFile(tmp_path / "other.gguf").config()


def test_missing_and_misshapen_tensors_are_named(tmp_path):
    write(tmp_path / "a.gguf", "qwen3", "qwen3", {"blk.1.ffn_up.weight": None})
    a = GgufFile(tmp_path / "a.gguf")
    with pytest.raises(UserError, match=r"a.gguf has no tensor blk.1.ffn_up.weight .*\[96, 48\]"):
        a.load(a.config())
    write(tmp_path / "b.gguf", "qwen3", "qwen3", {"blk.0.ffn_up.weight": np.ones((9, 48), "f4")})
    b = GgufFile(tmp_path / "b.gguf")
    with pytest.raises(UserError, match=r"blk.0.ffn_up.weight has shape \[9, 48\] .* \[96, 48\]"):
        b.load(b.config())
    write(tmp_path / "c.gguf", "qwen3", "qwen3", {"token_embd.weight": None})
    with pytest.raises(UserError, match=r"c.gguf has no tensor token_embd.weight"):
        GgufFile(tmp_path / "c.gguf").config()


def test_unsupported_fields_are_named(tmp_path):
    write(tmp_path / "a.gguf", "qwen3", "gemma3")
    with pytest.raises(UserError, match=r"general.architecture is 'gemma3'"):
        GgufFile(tmp_path / "a.gguf").config()
    write(tmp_path / "b.gguf", "qwen3", "qwen3", fields={"qwen3.rope.scaling.type": "yarn"})
    with pytest.raises(UserError, match=r"qwen3.rope.scaling.type is 'yarn'"):
        GgufFile(tmp_path / "b.gguf").config()
    write(tmp_path / "c.gguf", "qwen3", "qwen3", fields={"tokenizer.ggml.model": "llama"})
    with pytest.raises(UserError, match=r"tokenizer.ggml.model is 'llama'"):
        GgufFile(tmp_path / "c.gguf").tokenizer()
    write(tmp_path / "d.gguf", "qwen3", "qwen3")
    with pytest.raises(UserError, match=r"d.gguf has no field tokenizer.ggml.model"):
        GgufFile(tmp_path / "d.gguf").tokenizer()


@pytest.mark.parametrize("keep", [0, 3, 40, 700, 5000, 200_000])
def test_truncated_file_is_named(keep, tmp_path):
    path = tmp_path / "cut.gguf"
    write(path, "qwen3", "qwen3")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"cut.gguf cannot be read as GGUF .*download it again$"):
        GgufFile(path)


def test_other_file_is_named(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04" * 100)
    with pytest.raises(UserError, match="magic"):
        GgufFile(tmp_path / "x.gguf")
