import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece

from pivotrl_jax.errors import UserError
from pivotrl_jax.text import (
    BpeTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
)
from pivotrl_jax.trajectories.schema import Trajectory


def original_ids(golden: dict, ids: Sequence[int]) -> list[int]:
    return [golden["ids"][i] for i in ids]


def test_smollm2_agrees_with_transformers(golden: dict, smollm2: BpeTokenizer) -> None:
    for text, expected in golden["pairs"]:
        assert original_ids(golden, smollm2.encode(text)) == expected
        assert smollm2.decode(smollm2.encode(text)) == text


def test_smollm2_has_the_hash_that_llama_cpp_knows(golden: dict, smollm2: BpeTokenizer) -> None:
    ids = original_ids(golden, smollm2.encode(golden["pairs"][0][0]))
    assert hashlib.sha256(str(ids).encode()).hexdigest() == golden["llama_cpp_sha256"]


def test_smollm2_ends_turns_with_its_chat_marker(smollm2: BpeTokenizer) -> None:
    assert smollm2.decode([smollm2.eot]) == "<|im_end|>"
    assert smollm2.special_tokens == {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}


# Splits that the two published patterns must make, written out by hand.
@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("llama-bpe", ["I", "'LL", " wait", " ", "123", "45", "!!\n\n", "  ", " x", "\r\n"]),
        ("qwen2", ["I", "'LL", " wait", " ", *"12345", "!!\n\n", "  ", " x", "\r\n"]),
        ("smollm", ["I", "'", "LL", " wait", " ", *"12345", "!!", "\n\n  ", " x", "\r\n"]),
    ],
)
def test_words_are_split_as_published(golden: dict, pre: str, expected: list[str]) -> None:
    tokenizer = BpeTokenizer.from_gguf(
        golden["tokens"], [], golden["token_types"], pre, golden["tokens"].index("<|im_end|>"), None
    )
    text = "I'LL wait 12345!!\n\n   x\r\n"
    pieces = tokenizer.backend.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in pieces] == expected


def test_unknown_pre_tokenizer_is_refused(golden: dict) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.ggml\.pre is 'viking'"):
        BpeTokenizer.from_gguf(golden["tokens"], [], golden["token_types"], "viking", 0, None)


def test_llama3_takes_a_word_that_is_a_token_whole() -> None:
    tokens = ["a", "b", "c", "ab", "abc", "<|eot_id|>"]
    build = lambda pre: BpeTokenizer.from_gguf(tokens, ["a b"], [1] * 5 + [3], pre, 5, None)  # noqa: E731
    assert build("llama-bpe").encode("abc") == [4]
    assert build("qwen2").encode("abc") == [3, 2]


TEXTS = [
    "",
    " ",
    "plain words",
    "  two  leading, inner   and trailing  ",
    "tabs\tand\nlines\n\n",
    "naïve — 日本語 🏳️‍🌈 \u2028",
    "<|im_start|>user\n hi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|><|im_end|> <|im_end",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= index < tokenizer.vocab_size for index in ids)
    assert ids.count(tokenizer.eot) == text.count("<|im_end|>")


def test_real_messages_come_back(tokenizer: Tokenizer, trajectory: Trajectory) -> None:
    for message in trajectory.messages:
        assert tokenizer.decode(tokenizer.encode(message.content)) == message.content


def test_pieces_around_special_tokens_are_encoded_alone(tokenizer: Tokenizer) -> None:
    before, after = tokenizer.encode("a b"), tokenizer.encode(" c")
    assert tokenizer.encode("a b<|im_end|> c") == [*before, tokenizer.eot, *after]


def test_lone_surrogates_become_replacement_signs(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_directory_decides_the_kind(bpe_directory: Path, sentencepiece_directory: Path) -> None:
    assert isinstance(load_tokenizer(bpe_directory), BpeTokenizer)
    assert load_tokenizer(bpe_directory).chat_template == "{{ messages }}"
    assert isinstance(load_tokenizer(sentencepiece_directory), SentencePieceTokenizer)


def test_template_file_wins_over_configuration(bpe_directory: Path, tmp_path: Path) -> None:
    for source in bpe_directory.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}")
    assert load_tokenizer(tmp_path).chat_template == "{{ bos_token }}"


def test_sentencepiece_agrees_with_its_library(sentencepiece_directory: Path) -> None:
    path = sentencepiece_directory / "tokenizer.model"
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    # The library puts a space before the text; ours must be given it.
    text = "The model form grep 12345 ModelChoiceIteratorValue"
    assert load_tokenizer(sentencepiece_directory).encode(f" {text}") == library.Encode(text)


def test_sentencepiece_takes_pieces_added_beside_the_model(
    sentencepiece_directory: Path, tmp_path: Path
) -> None:
    model = (sentencepiece_directory / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(model)
    config = {"added_tokens_decoder": {"600": {"content": "<tool_call>"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 601
    assert tokenizer.encode("<tool_call>")[0] == 600
    assert tokenizer.decode([600]) == "<tool_call>"


def test_fingerprint_tells_tokenizers_apart(golden: dict, bpe_directory: Path) -> None:
    assert load_tokenizer(bpe_directory).fingerprint == load_tokenizer(bpe_directory).fingerprint
    end = golden["tokens"].index("<|im_end|>")
    prints = {
        BpeTokenizer.from_gguf(
            golden["tokens"], merges, golden["token_types"], pre, end, None
        ).fingerprint
        for merges in (golden["merges"], golden["merges"][:-1])
        for pre in ("smollm", "qwen2")
    }
    assert len(prints) == 4
    assert all(len(each) == 64 for each in prints)


def test_end_of_turn_falls_back_to_end_of_sequence() -> None:
    tokenizer = BpeTokenizer.from_gguf(["a", "</s>"], [], [1, 3], "smollm", 1, None)
    assert tokenizer.eot == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{", r"tokenizer\.json is not a tokenizer"),
        ("tokenizer.model", b"\xff\xff", "is not a SentencePiece model"),
        ("readme.txt", b"", "neither tokenizer.json nor tokenizer.model"),
    ],
)
def test_unusable_directories_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_unusable_configurations_are_refused(
    tmp_path: Path, bpe_directory: Path, content: str
) -> None:
    backend = json.loads((bpe_directory / "tokenizer.json").read_text())
    del backend["added_tokens"][1:], backend["model"]["vocab"]["<|im_end|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json"):
        load_tokenizer(tmp_path)
