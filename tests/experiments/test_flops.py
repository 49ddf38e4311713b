"""Parameters that a token meets."""

from experiments.flops import multiplied
from pivotrl_jax.models.presets import GEMMA_3_270M, QWEN_3_4B, QWEN_3_30B_A3B


def test_of_the_experts_only_the_active_ones_count():
    """2.73 billion of the 29.91 billion in the layers of Qwen3-30B-A3B."""
    width, own, keys = 2048, 32 * 128, 4 * 128
    attention = 2 * width * own + 2 * width * keys
    norms = 2 * width + 2 * 128
    experts = width * 128 + 8 * 3 * width * 768
    found = multiplied(QWEN_3_30B_A3B)
    assert found == {"body": 48 * (attention + norms + experts), "head": 151_936 * width}


def test_of_a_dense_model_all_layers_count():
    width, own, keys, ffn = 2560, 32 * 128, 8 * 128, 9728
    layer = 2 * width * (own + keys) + 2 * width + 2 * 128 + 3 * width * ffn
    assert multiplied(QWEN_3_4B) == {"body": 36 * layer, "head": 151_936 * width}


def test_of_gemma_four_norms_of_a_layer_count():
    width, own, keys, ffn = 640, 4 * 256, 256, 2048
    layer = 2 * width * (own + keys) + 4 * width + 2 * 256 + 3 * width * ffn
    assert multiplied(GEMMA_3_270M) == {"body": 18 * layer, "head": 262_144 * width}
