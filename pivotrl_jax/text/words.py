"""How byte-level BPE cuts text into words before it merges bytes."""

import tokenizers
from tokenizers import pre_tokenizers

from pivotrl_jax.errors import UserError

# Published with Llama 3 and Qwen2; they differ in how many digits make a word.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_WORDS = _WORDS.format(digits=r"\p{N}{1,3}")
_QWEN2_WORDS = _WORDS.format(digits=r"\p{N}")


def pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    """The splitting that the GGUF field `tokenizer.ggml.pre` names; UserError for other names."""
    byte_level = pre_tokenizers.ByteLevel
    if pre == "smollm":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                byte_level(add_prefix_space=False, use_regex=True),
            ]
        )
    patterns = {"llama-bpe": _LLAMA3_WORDS, "qwen2": _QWEN2_WORDS}
    if pre not in patterns:
        raise UserError(
            f"the GGUF field tokenizer.ggml.pre is {pre!r}, which is not one of smollm, llama-bpe "
            "and qwen2: use a model directory with a tokenizer.json instead"
        )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(patterns[pre]), "isolated"),
            byte_level(add_prefix_space=False, use_regex=False),
        ]
    )
