"""gpt-oss's weights as they are published: experts of a layer in one tensor, in four bits."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import Params, fused, huggingface, logical_axes, shapes, weights
from pivotrl_jax.models.safetensors import tensors
from pivotrl_jax.parallel import MeshSettings, make_mesh, shardings

GOLDEN = Path(__file__).parent / "golden"
MATRICES = ("gate_up_proj", "down_proj")
FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
VALUES = np.array([*FP4, *(-x for x in FP4)])


def test_four_bits_are_read_as_transformers_reads_them(tmp_path):
    golden = np.load(GOLDEN / "mxfp4.npz")
    prefix = "model.layers.0.mlp.experts.down_proj"
    packed = {f"{prefix}_blocks": golden["blocks"], f"{prefix}_scales": golden["scales"]}
    save_file(packed, tmp_path / "x.safetensors")
    (part,) = fused.split(tensors(tmp_path / "x.safetensors")).values()
    numbers = golden["numbers"][0].T  # [out, in]
    assert (part.shape, part.dtype) == (numbers.shape, "F32")
    np.testing.assert_array_equal(part.read((slice(0, 4), slice(0, 128))), numbers)
    np.testing.assert_array_equal(part.read((slice(1, 3), slice(40, 70))), numbers[1:3, 40:70])


def packed(matrix: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Four bits in place of a matrix [experts, in, out], which becomes what they stand for."""
    experts, inputs, outputs = matrix.shape
    codes = rng.integers(0, 16, (experts, outputs, inputs), dtype=np.uint8)
    scales = rng.integers(122, 126, (experts, outputs, inputs // 32), dtype=np.uint8)
    powers = np.repeat(2.0 ** (scales.astype(int) - 127), 32, axis=-1)
    matrix[:] = (VALUES[codes] * powers).swapaxes(1, 2)
    low, high = codes[..., 0::2], codes[..., 1::2]
    blocks = (low + 16 * high).reshape(experts, outputs, inputs // 32, 16)
    return {"blocks": blocks, "scales": scales}


@pytest.fixture(scope="module")
def quantised(tmp_path_factory) -> tuple[Path, Path]:
    """A model whose inputs are whole groups of 32, in four bits and as the numbers they are."""
    golden, rng = GOLDEN / "gpt_oss", np.random.default_rng(0)
    small, large = (tmp_path_factory.mktemp(name) for name in ("four_bits", "numbers"))
    config = json.loads((golden / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 32}
    for directory, more in (
        (small, {"quantization_config": {"quant_method": "mxfp4"}}),
        (large, {}),
    ):
        (directory / "config.json").write_text(json.dumps(config | more))
    cfg = huggingface.read_config(large)
    single = weights.tensor_shapes(cfg, huggingface.names_of(cfg))
    numbers = {
        file: rng.normal(0, 0.2, fused.shape(file, own, single)).astype(np.float32)
        for file, own in fused.files(single).items()
    }
    four: dict[str, np.ndarray] = {}
    for name, array in numbers.items():
        if name.endswith(MATRICES):
            four |= {f"{name}_{kind}": x for kind, x in packed(array, rng).items()}
        else:
            four[name] = array
    save_file(four, small / "model.safetensors")
    save_file(numbers, large / "model.safetensors")
    return small, large


def load(directory: Path, placed: Params | None = None) -> Params:
    return huggingface.load(directory, huggingface.read_config(directory), placed)


def test_weights_in_four_bits_are_the_numbers_they_stand_for(quantised):
    four, numbers = (load(directory) for directory in quantised)
    jax.tree.map(np.testing.assert_array_equal, four, numbers)


def test_every_device_reads_its_part_of_four_bits(quantised):
    """Also halves of a group: 64 inputs over four devices."""
    cfg = huggingface.read_config(quantised[0])
    mesh = make_mesh(MeshSettings(fsdp=4, expert=2))
    placed = shardings(shapes(cfg), logical_axes(cfg), mesh)
    params = load(quantised[0], placed)
    gate = params.layers.expert_gate
    assert gate.addressable_shards[0].data.shape == (2, 4, 16, 32)
    jax.tree.map(np.testing.assert_array_equal, params, load(quantised[1]))


def test_what_is_read_in_four_bits_is_written_as_numbers(quantised, tmp_path):
    cfg = huggingface.read_config(quantised[0])
    huggingface.save(tmp_path, load(quantised[0]), cfg)
    ours, theirs = (load_file(x / "model.safetensors") for x in (tmp_path, quantised[1]))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda x: None, r"mlp.experts.down_proj_blocks has dtype U8"),
        (lambda x: x[:, :1], r"mlp.experts.down_proj_(blocks|scales) has dtype U8"),
    ],
    ids=["missing", "cut"],
)
def test_four_bits_without_their_powers_are_named(quantised, tmp_path, change, named):
    directory = shutil.copytree(quantised[0], tmp_path / "model")
    content = load_file(directory / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj_scales"
    changed = change(content.pop(name))
    content |= {} if changed is None else {name: np.ascontiguousarray(changed)}
    save_file(content, directory / "model.safetensors")
    with pytest.raises(UserError, match=named):
        load(directory)


def test_dtypes_that_no_four_bits_have_are_named(quantised, tmp_path):
    directory = shutil.copytree(quantised[0], tmp_path / "model")
    content = load_file(directory / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj_scales"
    save_file(content | {name: content[name].view(np.int8)}, directory / "model.safetensors")
    with pytest.raises(UserError, match=r"down_proj_scales has dtype I8, .* its _blocks and _sc"):
        load(directory)


def test_a_missing_tensor_is_named_as_in_the_file(quantised, tmp_path):
    directory = shutil.copytree(quantised[0], tmp_path / "model")
    content = load_file(directory / "model.safetensors")
    del content["model.layers.1.mlp.experts.gate_up_proj_bias"]
    save_file(content, directory / "model.safetensors")
    named = r"has no tensor model.layers.1.mlp.experts.gate_up_proj_bias that holds .*0.gate_proj"
    with pytest.raises(UserError, match=named):
        load(directory)


def test_fewer_experts_than_configured_are_named(quantised, tmp_path):
    cfg = huggingface.read_config(quantised[1])
    assert cfg.experts is not None
    more = dataclasses.replace(cfg, experts=dataclasses.replace(cfg.experts, number=9))
    with pytest.raises(UserError, match=r"has shape \[8, 64\] .* asks for \[9, 64\]"):
        huggingface.load(quantised[1], more)
