"""A tokenizer learned from a corpus, for models that are trained from scratch."""

import io
import json
from collections.abc import Iterable

import sentencepiece

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.fallbacks import FALLBACKS

START, END = "<|im_start|>", "<|im_end|>"
UNKNOWN = "<unk>"
# Byte-pair merges do not overfit to the longest lines; the default leaves out whole documents.
LONGEST_LINE = 2**30


def learn_tokenizer(texts: Iterable[str], size: int) -> dict[str, bytes]:
    """The files, by name, of a SentencePiece tokenizer for dialogues in ChatML.

    At most `size` pieces, by byte-pair encoding. Digits are pieces of their own, and what has no
    piece is spelt in bytes, so that every text comes back, except that U+2581, SentencePiece's own
    sign for a space, comes back as one. `text.load_tokenizer` reads the files; the same texts give
    the same bytes. Raises UserError when there is no text or `size` does not hold its characters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,
            max_sentence_length=LONGEST_LINE,
            # What is read is what is written: no case folding, no spaces lost or added.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            split_digits=True,
            byte_fallback=True,
            unk_piece=UNKNOWN,
            unk_id=0,
            eos_piece=END,
            eos_id=1,
            control_symbols=[START],
            bos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2] or "there is no text"
        raise UserError(f"no tokenizer of {size} pieces can be learned ({reason})") from None
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": False,
        "add_prefix_space": False,
        "unk_token": UNKNOWN,
        "eos_token": END,
    }
    return {
        "tokenizer.model": model.getvalue(),
        "tokenizer_config.json": json.dumps(config, indent=2).encode(),
        "chat_template.jinja": FALLBACKS[END].encode(),
    }
