"""Hugging Face directories in and out."""

import dataclasses
import json
import resource
import shutil
import weakref
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import huggingface, logical_axes, presets, shapes, weights
from pivotrl_jax.models.params import Params
from pivotrl_jax.parallel import MeshSettings, make_mesh, shardings

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["smollm2", "llama31", "qwen25", "qwen3", "qwen3_moe"]
SMALL = {"vocab": 256, "layers": 2, "ffn": 96}
SHRUNKEN = {
    "smollm2": presets.shrink(presets.SMOLLM2_135M, width=48, kv_heads=2, head_dim=8, **SMALL),
    "qwen25": presets.shrink(presets.QWEN_2_5_0_5B, width=56, kv_heads=1, head_dim=8, **SMALL),
    "qwen3": presets.shrink(presets.QWEN_3_0_6B, width=48, kv_heads=2, head_dim=16, **SMALL),
    "qwen3_moe": presets.shrink(
        presets.QWEN_3_30B_A3B, width=48, kv_heads=1, head_dim=16, **(SMALL | {"ffn": 24})
    ),
}
PUBLISHED = {
    "Llama-3.2-1B": {
        "model_type": "llama", "attention_bias": False, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        },
        "tie_word_embeddings": True, "torch_dtype": "float32", "vocab_size": 128256,
    },
    "Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 896,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768,
        "tie_word_embeddings": True, "torch_dtype": "float32", "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "Qwen3-4B": {
        "model_type": "qwen3", "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 2560, "intermediate_size": 9728, "max_position_embeddings": 40960,
        "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
        "torch_dtype": "float32", "use_sliding_window": False, "vocab_size": 151936,
    },
    "Qwen3-30B-A3B": {
        "model_type": "qwen3_moe", "attention_bias": False, "decoder_sparse_step": 1,
        "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 6144,
        "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32,
        "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "float32",
        "use_sliding_window": False, "vocab_size": 151936,
    },
}  # fmt: skip


@pytest.fixture
def copy(tmp_path) -> Path:
    return shutil.copytree(GOLDEN / "qwen3", tmp_path / "qwen3")


def edit_config(directory: Path, **fields: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def load(directory: Path) -> Params:
    return huggingface.load(directory, huggingface.read_config(directory))


def assert_same(a: Params, b: Params) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    "preset",
    [presets.LLAMA_3_2_1B, presets.QWEN_2_5_0_5B, presets.QWEN_3_4B, presets.QWEN_3_30B_A3B],
    ids=lambda p: p.name,
)
def test_presets_are_the_published_configurations(preset):
    assert huggingface.config_from_hf(PUBLISHED[preset.name], preset.name) == preset


@pytest.mark.parametrize("name", SHRUNKEN)
def test_shrinking_keeps_the_features_of_the_published_model(name):
    published = json.loads((GOLDEN / name / "config.json").read_text())
    assert huggingface.config_from_hf(published, SHRUNKEN[name].name) == SHRUNKEN[name]


@pytest.mark.parametrize("name", NAMES)
def test_saving_reproduces_the_tensors_and_configuration_of_transformers(name, tmp_path):
    cfg = huggingface.read_config(GOLDEN / name)
    huggingface.save(tmp_path / name, load(GOLDEN / name), cfg, {"a.txt": b"x"}, eos_token_id=2)

    theirs = load_file(GOLDEN / name / "model.safetensors")
    ours = load_file(tmp_path / name / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor, array in theirs.items():
        assert (ours[tensor].shape, ours[tensor].dtype) == (array.shape, array.dtype)
        assert ours[tensor].tobytes() == array.tobytes()
    assert huggingface.read_config(tmp_path / name) == cfg
    ours_json, theirs_json = (
        json.loads((d / name / "config.json").read_text()) for d in (tmp_path, GOLDEN)
    )
    for field in ("architectures", "model_type", "bos_token_id", "eos_token_id"):
        assert ours_json[field] == theirs_json[field]
    assert (tmp_path / name / "a.txt").read_bytes() == b"x"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_round_trip_in_several_files_is_exact(dtype, tmp_path):
    golden = GOLDEN / "qwen25"
    cfg = dataclasses.replace(huggingface.read_config(golden), dtype=dtype)
    params = huggingface.load(golden, cfg)
    huggingface.save(tmp_path, params, cfg, shard_bytes=60_000)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    assert huggingface.read_config(tmp_path).dtype == dtype
    assert_same(load(tmp_path), params)

    # A second export to the same place must not be shadowed by the first one's files.
    others = params.replace(final_norm=params.final_norm + 1)
    huggingface.save(tmp_path, others, cfg)
    assert_same(load(tmp_path), others)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("name", NAMES)
def test_loads_and_saves_sharded(name, tmp_path):
    cfg = huggingface.read_config(GOLDEN / name)
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    wanted = shardings(shapes(cfg), logical_axes(cfg), mesh)
    params = huggingface.load(GOLDEN / name, cfg, wanted)

    assert jax.tree.map(lambda x: x.sharding, params) == wanted
    assert params.embed.addressable_shards[0].data.size == params.embed.size // 4
    assert_same(params, load(GOLDEN / name))
    huggingface.save(tmp_path, params, cfg)
    assert_same(load(tmp_path), params)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "qwen2_moe"}, "model_type is 'qwen2_moe'"),
        ({"model_type": "qwen3_moe"}, "num_experts must be an integer"),
        ({"mlp_only_layers": [0]}, r"mlp_only_layers is \[0\]"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "lacks 'low_freq_factor'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"hidden_size": None}, "hidden_size must be an integer"),
    ],
)
def test_unsupported_configuration_is_named(fields, named, copy):
    edit_config(copy, **fields)
    with pytest.raises(UserError, match=named):
        huggingface.read_config(copy)


def test_missing_tensor_is_named(copy):
    file = copy / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"qwen3 has no tensor .*1.mlp.up_proj.weight .*\[96, 48\]"):
        load(copy)


def test_unused_tensor_is_named(copy):
    edit_config(copy, model_type="llama")
    with pytest.raises(UserError, match=r"tensor model.layers.0.self_attn.._norm.weight has no pl"):
        load(copy)


def test_wrong_shape_is_named_with_both_shapes(copy):
    edit_config(copy, intermediate_size=112)
    with pytest.raises(UserError, match=r"gate_proj.weight has shape \[96, 48\] .* \[112, 48\]"):
        load(copy)


def test_quantised_tensor_is_named(copy):
    file = copy / "model.safetensors"
    save_file(load_file(file) | {"model.norm.weight": np.ones(48, np.int8)}, file)
    with pytest.raises(UserError, match=r"model.norm.weight has dtype I8"):
        load(copy)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, "cut"], ids=["empty", "header", "cut"])
def test_corrupt_file_is_named(content, copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] if content == "cut" else content)
    with pytest.raises(UserError, match=r"model.safetensors cannot be read .*download it again$"):
        load(copy)


def test_broken_index_and_missing_file_are_named(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model.safetensors cannot be read"):
        load(copy)
    (copy / "model.safetensors.index.json").write_text('{"weight_map": []}')
    with pytest.raises(UserError, match=r"index.json is no safetensors index"):
        load(copy)


def test_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    cfg = huggingface.read_config(GOLDEN / "smollm2")
    with pytest.raises(UserError, match="cannot write the model to"):
        huggingface.save(tmp_path / "file" / "x", load(GOLDEN / "smollm2"), cfg)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_full_disk_is_named_and_leaves_an_earlier_export_as_it_was(copy):
    """The system refuses files beyond the limit as it does when space runs out."""
    params, cfg, before = load(copy), huggingface.read_config(copy), files(copy)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(
            UserError, match=r"cannot write the model to .*qwen3 \(.*\); free space"
        ):
            huggingface.save(copy, params, cfg)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(copy) == before


def test_an_export_that_ends_between_two_files_is_no_model(copy, tmp_path, monkeypatch):
    params, cfg, before = load(copy), huggingface.read_config(copy), files(copy)
    replace, moved = Path.replace, []

    def stop(path: Path, target: Path) -> None:
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(replace(path, target))

    monkeypatch.setattr(Path, "replace", stop)
    for directory in (copy, tmp_path / "new"):
        moved.clear()
        with pytest.raises(KeyboardInterrupt):
            huggingface.save(directory, params, cfg, shard_bytes=60_000)
        with pytest.raises(UserError, match=r"config.json cannot be read"):
            load(directory)
    monkeypatch.undo()
    # What a killed export leaves behind is not in the way of the next one.
    (copy / ".partial").mkdir()
    (copy / ".partial" / "model-00009-of-00009.safetensors").write_bytes(b"half")
    huggingface.save(copy, params, cfg)
    assert files(copy).keys() == before.keys()
    assert_same(load(copy), params)


def test_saving_holds_one_tensor_at_a_time(copy, tmp_path, monkeypatch):
    params, cfg, on_host = load(copy), huggingface.read_config(copy), weights._on_host
    alive: list[weakref.ref] = []

    def watched(tensor: jax.Array) -> np.ndarray:
        assert [ref for ref in alive if ref() is not None] == []
        array = on_host(tensor).view()
        alive[:] = weakref.ref(tensor), weakref.ref(array)
        return array

    monkeypatch.setattr(weights, "_on_host", watched)
    huggingface.save(tmp_path / "saved", params, cfg, shard_bytes=60_000)
    assert_same(load(tmp_path / "saved"), params)
