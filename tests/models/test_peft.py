"""Adapters as PEFT lays them out, and the merged weights beside them."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import Params, huggingface, init, logits, peft
from pivotrl_jax.models.lora import Adapters, LoraSettings, adapter_shapes, attach
from pivotrl_jax.models.presets import QWEN_2_5_0_5B, shrink

CFG = shrink(QWEN_2_5_0_5B, vocab=64, width=32, layers=2, kv_heads=2, head_dim=16, ffn=48)
LORA = LoraSettings(rank=3, alpha=6.0)
MODULES = [f"self_attn.{name}_proj" for name in "qkvo"]
MODULES += [f"mlp.{name}_proj" for name in ("gate", "up", "down")]


def normal(shapes: Adapters | Params) -> Adapters:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) / 4, shapes)


@pytest.fixture(scope="module")
def base() -> Params:
    return init(jax.random.key(0), CFG)


@pytest.fixture(scope="module")
def adapters() -> Adapters:
    return normal(adapter_shapes(CFG, LORA))


@pytest.fixture
def adapter(tmp_path: Path, adapters: Adapters) -> Path:
    peft.save(tmp_path / "adapter", adapters, CFG, LORA, "hub:Qwen/Qwen2.5-0.5B")
    return tmp_path / "adapter"


def test_what_is_written_is_read_back(adapter, adapters):
    found = peft.load(adapter, CFG, LORA)
    assert jax.tree.structure(found) == jax.tree.structure(adapters)
    jax.tree.map(np.testing.assert_array_equal, found, adapters)


def test_the_merged_weights_are_those_that_peft_would_merge(tmp_path, adapter, base, adapters):
    """W + (alpha / r) B A of the matrices in the files."""
    huggingface.save(tmp_path / "base", base, CFG)
    huggingface.save(tmp_path / "policy", attach(base, adapters), CFG)
    before = load_file(tmp_path / "base/model.safetensors")
    after = load_file(tmp_path / "policy/model.safetensors")
    low_rank = load_file(adapter / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    adapted = {f"model.layers.{i}.{module}" for i in range(2) for module in MODULES}
    for name, matrix in before.items():
        module = name.removesuffix(".weight")
        if module in adapted:
            a, b = (low_rank.pop(f"base_model.model.{module}.lora_{s}.weight") for s in "AB")
            assert a.shape == (3, matrix.shape[1])
            matrix = matrix + 6 / 3 * b @ a
        np.testing.assert_allclose(after[name], matrix, rtol=1e-6, atol=1e-6)
    assert not low_rank


def test_the_merged_policy_says_what_the_adapted_one_says(tmp_path, base, adapters):
    policy = attach(base, adapters)
    huggingface.save(tmp_path, policy, CFG)
    merged = huggingface.load(tmp_path, CFG)
    run = jax.jit(logits, static_argnums=1)
    tokens = jax.random.randint(jax.random.key(1), (2, 16), 0, CFG.vocab)
    found, expected = run(merged, CFG, tokens), run(policy, CFG, tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_configuration_is_what_peft_reads(adapter):
    found = json.loads((adapter / "adapter_config.json").read_text())
    assert found["peft_type"] == "LORA"
    assert found["task_type"] == "CAUSAL_LM"
    assert found["base_model_name_or_path"] == "Qwen/Qwen2.5-0.5B"
    assert (found["r"], found["lora_alpha"], found["use_rslora"]) == (3, 6, False)
    assert found["target_modules"] == [module.split(".")[1] for module in MODULES]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 4}, r"adapter_config\.json: r is 3, but lora\.rank is 4; set lora\.rank to it"),
        ({"alpha": 8.0}, r"lora_alpha is 6\.0, but lora\.alpha is 8\.0"),
        ({"rslora": True}, r"use_rslora is False, but lora\.rslora is True"),
        ({"targets": ("q",)}, r"layers\.0\.mlp\.down_proj\.lora_A\.weight .* in lora\.targets"),
    ],
)
def test_another_adapter_than_the_settings_ask_for_is_refused(adapter, fields, message):
    with pytest.raises(UserError, match=message):
        peft.load(adapter, CFG, dataclasses.replace(LORA, **fields))


def test_an_adapter_of_another_model_is_refused(adapter):
    wider = dataclasses.replace(CFG, ffn=64)
    with pytest.raises(UserError, match=r"down_proj\.lora_A\.weight has shape \(3, 48\)"):
        peft.load(adapter, wider, LORA)


def test_another_kind_of_adapter_is_refused_by_its_field(adapter):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(UserError, match=r"adapter_config\.json: use_dora is True"):
        peft.load(adapter, CFG, LORA)


def test_broken_files_are_named(adapter):
    weights = adapter / "adapter_model.safetensors"
    save_file({}, weights)
    with pytest.raises(UserError, match=r"lora_A\.weight has shape None"):
        peft.load(adapter, CFG, LORA)
    weights.write_bytes(b"{}")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        peft.load(adapter, CFG, LORA)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"adapter_config\.json cannot be read as JSON"):
        peft.load(adapter, CFG, LORA)


def test_adapters_are_born_sharded(adapter, adapters):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    found = peft.load(adapter, CFG, LORA, jax.tree.map(lambda _: one, adapters))
    assert {leaf.sharding for leaf in jax.tree.leaves(found)} == {one}
