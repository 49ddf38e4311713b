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


def test_saving_reproduces_the_tensors_and_configuration_of_transformers(family, tmp_path):
    cfg, name = family.cfg, family.directory.name
    huggingface.save(tmp_path / name, family.params, cfg, {"a.txt": b"x"}, eos_token_id=2)

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


def test_loads_and_saves_sharded(family, tmp_path):
    cfg = family.cfg
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    wanted = shardings(shapes(cfg), logical_axes(cfg), mesh)
    params = huggingface.load(family.directory, cfg, wanted)

    assert jax.tree.map(lambda x: x.sharding, params) == wanted
    assert params.embed.addressable_shards[0].data.size == params.embed.size // 4
    assert_same(params, family.params)
    huggingface.save(tmp_path, params, cfg)
    assert_same(load(tmp_path), params)


@pytest.mark.parametrize(
    ("language", "images"), [("language_model.model.", ""), ("model.language_model.", "model.")]
)
def test_of_a_model_that_reads_images_the_text_part_is_read(language, images, tmp_path):
    """Under the names that transformers writes, and those that it has in memory."""
    golden = GOLDEN / "gemma3"
    text = json.loads((golden / "config.json").read_text())
    outer = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    tensors = load_file(golden / "model.safetensors")
    named = {name.replace("model.", language, 1): x for name, x in tensors.items()}
    named |= {
        f"{images}{part}.weight": np.ones((8, 8), np.float32)
        for part in ("vision_tower.x", "multi_modal_projector.y")
    }
    save_file(named, tmp_path / "model.safetensors")
    assert_same(load(tmp_path), load(golden))
    exported = huggingface.config_to_hf(huggingface.read_config(tmp_path))
    assert exported["model_type"] == "gemma3_text"


@pytest.mark.parametrize(
    ("preset", "facts", "named"),
    [
        (presets.QWEN_3_4B, {"qkv_bias": True}, "has qkv_bias=True, qk_norm=True;"),
        (presets.QWEN_3_4B, {"query_scalar": 100}, "query_scalar=100;"),
        (presets.GEMMA_3_1B, {"local": None}, "scaled_embed=True, query_scalar=256;"),
    ],
)
def test_facts_of_no_family_are_named(preset, facts, named):
    with pytest.raises(UserError, match=f"no Hugging Face family .*{named}"):
        huggingface.config_to_hf(dataclasses.replace(preset, **facts))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "qwen2_moe"}, "model_type is 'qwen2_moe'"),
        ({"model_type": "qwen3_moe"}, "num_experts must be an integer"),
        ({"mlp_only_layers": [0]}, r"mlp_only_layers is \[0\]"),
        ({"decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type is 'longrope'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "lacks 'original_max_posit"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7}},
            "rope_scaling.mscale is 0.7",
        ),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "lacks 'low_freq_factor'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config"),
        ({"hidden_size": None}, "hidden_size must be an integer"),
        ({"model_type": "gemma3_text"}, "hidden_act is 'silu'"),
    ],
)
def test_unsupported_configuration_is_named(fields, named, copy):
    edit_config(copy, **fields)
    with pytest.raises(UserError, match=named):
        huggingface.read_config(copy)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"layer_types": ["full_attention"] + 5 * ["sliding_attention"]}, "layer_types is"),
        ({"sliding_window": None}, "sliding_window must be an integer"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_parameters.sliding_attention is",
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {
                        "rope_type": "yarn",
                        "factor": 8.0,
                        "original_max_position_embeddings": 8192,
                    }
                }
            },
            "rope_scaling.rope_type is 'yarn'",
        ),
    ],
)
def test_unsupported_gemma_is_named(fields, named):
    published = json.loads((GOLDEN / "gemma3" / "config.json").read_text())
    with pytest.raises(UserError, match=named):
        huggingface.config_from_hf(published | fields)


def test_what_a_gpt_oss_leaves_out_is_what_transformers_takes():
    """And one without scaling says so, because transformers would add it."""
    published = json.loads((GOLDEN / "gpt_oss" / "config.json").read_text())
    cfg = huggingface.config_from_hf(published)
    silent = {"rope_parameters", "rms_norm_eps"}
    rest = {field: value for field, value in published.items() if field not in silent}
    assert huggingface.config_from_hf(rest) == cfg
    plain = dataclasses.replace(cfg, rope_scaling=None)
    exported = huggingface.config_to_hf(plain)
    assert exported["rope_scaling"] == {"rope_type": "default"}
    assert huggingface.config_from_hf(exported, cfg.name) == plain
    for field, value in (
        ("swiglu_limit", None),
        ("rope_scaling", {"rope_type": "linear", "factor": None}),
    ):
        with pytest.raises(UserError, match="must be a number"):
            huggingface.config_from_hf(rest | {field: value})


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
