"""Makes the golden arrays of this folder with Hugging Face transformers, an independent writing.

Needs torch, transformers and gguf, which the project itself does not:
    python tests/models/make_golden.py [SmolLM2-135M-Instruct.Q4_1.gguf]
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

GOLDEN = Path(__file__).parent / "golden"
SMALL = {
    "vocab_size": 256,
    "num_hidden_layers": 2,
    "bos_token_id": None,
    "eos_token_id": 2,
    "dtype": "float32",
}
# Group sizes, tying, rotary base and scaling are those of the published model of that name.
CONFIGS = {
    "smollm2": transformers.LlamaConfig(
        hidden_size=48, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
        intermediate_size=96, rms_norm_eps=1e-5, max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True, **SMALL,
    ),
    "llama31": transformers.LlamaConfig(
        hidden_size=48, num_attention_heads=4, num_key_value_heads=1, head_dim=12,
        intermediate_size=96, rms_norm_eps=1e-5, max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
        tie_word_embeddings=False, **SMALL,
    ),
    "qwen25": transformers.Qwen2Config(
        hidden_size=56, num_attention_heads=7, num_key_value_heads=1,
        intermediate_size=96, rms_norm_eps=1e-6, max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True, use_sliding_window=False, **SMALL,
    ),
    "qwen3": transformers.Qwen3Config(
        hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=96, rms_norm_eps=1e-6, max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True, use_sliding_window=False, **SMALL,
    ),
    "qwen3_moe": transformers.Qwen3MoeConfig(
        hidden_size=48, num_attention_heads=8, num_key_value_heads=1, head_dim=16,
        intermediate_size=24, rms_norm_eps=1e-6, max_position_embeddings=40960,
        num_experts=8, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=False, use_sliding_window=False, **SMALL,
    ),
    "gemma3": transformers.Gemma3TextConfig(
        hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=96, rms_norm_eps=1e-6, max_position_embeddings=131072,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        query_pre_attn_scalar=21, sliding_window=8, tie_word_embeddings=True, pad_token_id=None,
        **SMALL | {"num_hidden_layers": 6},
    ),
    "gpt_oss": transformers.GptOssConfig(
        hidden_size=48, num_attention_heads=8, num_key_value_heads=1, head_dim=16,
        intermediate_size=24, rms_norm_eps=1e-5, max_position_embeddings=131072,
        num_local_experts=8, num_experts_per_tok=2, sliding_window=8, swiglu_limit=1.5,
        rope_parameters={
            "rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0,
            "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 4096,
        },
        tie_word_embeddings=False, attn_implementation="eager",
        **SMALL,
    ),
}  # fmt: skip
TEXT = """<|im_start|>user
Fix the failing test in tests/test_parser.py<|im_end|>
<|im_start|>assistant
I will look at the failing test first.

```bash
cat tests/test_parser.py
```<|im_end|>
"""


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights large enough that norms, biases and positions all show in the logits."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:  # those of Gemma are what is added to 1
            parameter.data = (0 if parameter.mean() == 0 else 1) + 0.2 * noise
        elif parameter.ndim == 1:
            parameter.data = 0.5 * noise
        else:
            parameter.data = noise * 1.5 * parameter.shape[1] ** -0.5


@torch.no_grad()
def make_small(name: str, config: transformers.PreTrainedConfig, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(model, generator)
    model.tie_weights()
    tokens = torch.randint(0, config.vocab_size, (2, 48), generator=generator)
    logits = model(tokens).logits
    directory = GOLDEN / name
    shutil.rmtree(directory, ignore_errors=True)
    model.save_pretrained(directory)
    np.savez_compressed(
        directory / "logits.npz", tokens=tokens.numpy().astype(np.int32), logits=logits.numpy()
    )
    (directory / "generation_config.json").unlink(missing_ok=True)


@torch.no_grad()
def make_pretrained(path: Path) -> None:
    """Logits of the real model on a real turn: 64 columns of every position and logsumexp."""
    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    tokens = tokenizer(TEXT, return_tensors="pt", add_special_tokens=False).input_ids[:, :48]
    logits = model(tokens).logits[0]
    columns = torch.arange(0, logits.shape[-1], logits.shape[-1] // 64)
    np.savez_compressed(
        GOLDEN / "SmolLM2-135M-Instruct.npz",
        tokens=tokens.numpy().astype(np.int32),
        columns=columns.numpy().astype(np.int32),
        logits=logits[:, columns].numpy(),
        logsumexp=torch.logsumexp(logits, dim=-1).numpy(),
    )


def make_four_bits() -> None:
    """Every byte of two numbers and many powers of two, and what transformers reads in them."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.arange(256, dtype=torch.uint8).reshape(1, 4, 4, 16)
    scales = torch.randint(110, 140, (1, 4, 4), generator=generator, dtype=torch.uint8)
    found = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    arrays = {"blocks": blocks, "scales": scales, "numbers": found}
    np.savez_compressed(GOLDEN / "mxfp4.npz", **{k: v.numpy() for k, v in arrays.items()})


def main() -> None:
    torch.manual_seed(0)
    for seed, (name, config) in enumerate(CONFIGS.items()):
        make_small(name, config, seed)
    make_four_bits()
    if len(sys.argv) > 1:
        make_pretrained(Path(sys.argv[1]))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (GOLDEN / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
