"""Gemma's tokenizer in both of its files, in small, and its chat format."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers

from pivotrl_jax.text import (
    ChatTemplate,
    Clip,
    RenderSettings,
    Tokenizer,
    action_format,
    load_tokenizer,
    render,
)
from pivotrl_jax.trajectories.schema import Trajectory

# As Gemma has them: control pieces first, then pieces that are recognised in text, runs of spaces
# and line ends among them.
DEFINED = ["<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "▁▁", "▁▁▁"]
TEXTS = [
    "<bos><start_of_turn>user\nTry  it:   ls -la 2024\n\n\n<end_of_turn>\n<start_of_turn>model\n",
    "naïve — 日本語 🏳️‍🌈",
    "  two leading, four    inner",
    "<end_of_turn><start_of_turn",
]


@pytest.fixture(scope="module")
def model(trajectory: Trajectory) -> sentencepiece.SentencePieceProcessor:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(m.content for m in trajectory.messages),
        model_writer=written,
        model_type="bpe",
        vocab_size=600,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_digits=True,
        byte_fallback=True,
        pad_piece="<pad>", pad_id=0, eos_piece="<eos>", eos_id=1, bos_piece="<bos>", bos_id=2,
        unk_piece="<unk>", unk_id=3,
        user_defined_symbols=DEFINED,
        num_threads=1,
        minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def tokenizer_json(model: sentencepiece.SentencePieceProcessor) -> str:
    """As transformers converts a SentencePiece model: its pieces, and the pairs that make them."""
    pieces = [model.IdToPiece(i) for i in range(model.GetPieceSize())]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    first = 4 + len(DEFINED)
    merges = [
        (piece[:cut], piece[cut:])
        for index, piece in enumerate(pieces[first:], first)
        for cut in range(1, len(piece))
        if not model.IsByte(index) and piece[:cut] in vocab and piece[cut:] in vocab
    ]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    added = [tokenizers.AddedToken(t, normalized=False, special=True) for t in pieces[:3]]
    added += [tokenizers.AddedToken(t, normalized="▁" in t) for t in DEFINED]
    backend.add_tokens(added)
    return backend.to_str()


@pytest.fixture(scope="module", params=["model", "model and names", "json"])
def gemma(
    request: pytest.FixtureRequest,
    model: sentencepiece.SentencePieceProcessor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tokenizer:
    directory: Path = tmp_path_factory.mktemp("gemma")
    names = {"bos_token": "<bos>", "eos_token": "<eos>"}
    if request.param == "json":
        (directory / "tokenizer.json").write_text(tokenizer_json(model))
        (directory / "tokenizer_config.json").write_text(json.dumps(names))
        return load_tokenizer(directory)
    (directory / "tokenizer.model").write_bytes(model.serialized_model_proto())
    if request.param == "model and names":
        added = {str(i): {"content": model.IdToPiece(i)} for i in range(4 + len(DEFINED))}
        config = names | {"added_tokens_decoder": added}
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(directory)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_library(gemma, model, text):
    ids = gemma.encode(text)
    start = [model.bos_id()] if text.startswith("<bos>") else []
    assert ids == start + model.Encode(text.removeprefix("<bos>"))
    assert gemma.decode(ids) == text
    assert ids.count(gemma.eot) == text.count("<end_of_turn>")


def test_turns_end_with_the_marker_and_not_with_the_end_of_text(gemma, model):
    assert gemma.ends == (model.PieceToId("<end_of_turn>"),)
    assert gemma.decode(gemma.ends) == "<end_of_turn>"


def test_a_trajectory_becomes_turns_of_user_and_model(gemma, trajectory):
    template = ChatTemplate.from_tokenizer(gemma)
    fmt, settings = action_format("fenced_bash"), RenderSettings(tool_role="user")
    found = render(trajectory, gemma, template, fmt, Clip(), 10**6, settings)
    assert not found.left_out
    (trunk,) = found.trunks
    assert trunk.tokens[0] == gemma.encode("<bos>")[0]
    assert len(trunk.spans) == sum(m.role == "assistant" for m in trajectory.messages)
    for span in trunk.spans:
        history = gemma.decode(trunk.tokens[: span.start])
        assert history.endswith("<end_of_turn>\n<start_of_turn>model\n")
        assert "<start_of_turn>system" not in history
        action = gemma.decode(trunk.tokens[span.start : span.end])
        assert trunk.tokens[span.end - 1] == gemma.eot
        text = action.removesuffix("<end_of_turn>")
        assert fmt.parse(text).action == trajectory.messages[span.message].action
