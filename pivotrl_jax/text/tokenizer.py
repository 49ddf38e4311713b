"""Byte-level BPE and SentencePiece tokenizers behind one interface."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
import tokenizers
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers

from pivotrl_jax.errors import UserError
from pivotrl_jax.text.words import pre_tokenizer

_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|return|>")
_END_OF_CALL = "<|call|>"  # gpt-oss ends a turn that calls a tool otherwise

# GGUF token types (llama.cpp, enum llama_token_type).
_GGUF_CONTROL = 3
_GGUF_USER_DEFINED = 4


class Tokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""

    @property
    def eot(self) -> int:
        """Id of the token that ends an assistant turn; if there are two, of one without a call."""

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of all tokens that end an assistant turn, `eot` first."""

    @property
    def chat_template(self) -> str | None:
        """Jinja source that came with the tokenizer."""

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """`bos_token` and `eos_token`, as far as known: the names that chat templates use."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) over everything that decides the ids of a text."""

    def encode(self, text: str) -> list[int]:
        """Token ids; special tokens in the text are recognised and nothing is added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens included."""


@dataclasses.dataclass(frozen=True)
class BpeTokenizer:
    """A tokenizer of the `tokenizers` library."""

    backend: tokenizers.Tokenizer
    eot: int
    chat_template: str | None
    special_tokens: Mapping[str, str]

    @classmethod
    def from_directory(cls, directory: Path) -> "BpeTokenizer":
        """Read tokenizer.json and tokenizer_config.json; UserError if either is unusable."""
        path = directory / "tokenizer.json"
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise UserError(f"{path} is not a tokenizer ({error}): fetch it again") from error
        backend.no_truncation()
        backend.no_padding()
        config = _read_config(directory)
        special = _special_tokens(config)
        eot = _end_of_turn(backend.get_vocab(), special.get("eos_token"), path)
        return cls(backend, eot, _read_template(directory, config), special)

    @classmethod
    def from_gguf(
        cls,
        tokens: Sequence[str],
        merges: Sequence[str],
        token_types: Sequence[int],
        pre: str,
        eos_id: int,
        chat_template: str | None,
        bos_id: int | None = None,
    ) -> "BpeTokenizer":
        """Rebuild a byte-level BPE from the `tokenizer.ggml.*` fields of a GGUF file."""
        vocab = {token: index for index, token in enumerate(tokens)}
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
        # Llama 3 takes a word that is a token as it is, without running the merges.
        model = models.BPE(vocab=vocab, merges=pairs, ignore_merges=pre == "llama-bpe")
        backend = tokenizers.Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizer(pre)
        backend.decoder = decoders.ByteLevel()
        if pre == "qwen2":
            backend.normalizer = normalizers.NFC()
        backend.add_tokens(
            [
                tokenizers.AddedToken(token, special=kind == _GGUF_CONTROL, normalized=False)
                for token, kind in zip(tokens, token_types, strict=True)
                if kind in (_GGUF_CONTROL, _GGUF_USER_DEFINED)
            ]
        )
        bos = {} if bos_id is None else {"bos_token": tokens[bos_id]}
        special = {"eos_token": tokens[eos_id]} | bos
        eot = _end_of_turn(vocab, tokens[eos_id], "the GGUF file")
        return cls(backend, eot, chat_template, special)

    @functools.cached_property
    def vocab_size(self) -> int:
        return max(self.backend.get_vocab().values()) + 1

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        call = self.backend.token_to_id(_END_OF_CALL)
        return (self.eot,) if call is None else (self.eot, call)

    @functools.cached_property
    def fingerprint(self) -> str:
        canonical = json.dumps(json.loads(self.backend.to_str()), sort_keys=True)
        return hashlib.sha256(f"{canonical}\n{self.eot}".encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(_valid_unicode(text), add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode([int(index) for index in ids], skip_special_tokens=False)


@dataclasses.dataclass(frozen=True)
class SentencePieceTokenizer:
    """A SentencePiece model; `special` maps the pieces that are recognised in text to ids."""

    processor: sentencepiece.SentencePieceProcessor
    special: Mapping[str, int]
    eot: int
    chat_template: str | None
    special_tokens: Mapping[str, str]

    @classmethod
    def from_directory(cls, directory: Path) -> "SentencePieceTokenizer":
        """Read tokenizer.model and tokenizer_config.json; UserError if either is unusable."""
        path = directory / "tokenizer.model"
        model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at import
        try:
            model.ParseFromString(path.read_bytes())
        except DecodeError as error:
            raise UserError(f"{path} is not a SentencePiece model: fetch it again") from error
        # Every segment of a dialogue would otherwise gain a space that the text does not have.
        model.normalizer_spec.add_dummy_prefix = False
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(model.SerializeToString())
        config = _read_config(directory)
        special = _special_pieces(processor, config)
        names = {"eos_token": processor.IdToPiece(processor.eos_id())} | _special_tokens(config)
        eot = _end_of_turn(special, names["eos_token"], path)
        return cls(processor, special, eot, _read_template(directory, config), names)

    @functools.cached_property
    def vocab_size(self) -> int:
        return max(self.processor.GetPieceSize(), 1 + max(self.special.values()))

    @property
    def ends(self) -> tuple[int, ...]:
        return (self.eot,)

    @functools.cached_property
    def fingerprint(self) -> str:
        pieces = json.dumps([dict(self.special), self.eot], sort_keys=True).encode()
        return hashlib.sha256(self.processor.serialized_model_proto() + pieces).hexdigest()

    @functools.cached_property
    def _split(self) -> re.Pattern[str]:
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(self._split.split(_valid_unicode(text))):
            # re.split with one group puts the separators at the odd places.
            ids.extend([self.special[part]] if index % 2 else self.processor.Encode(part))
        return ids

    @functools.cached_property
    def _unwritten(self) -> Mapping[int, str]:
        """Special pieces that the model does not write: its own for spaces stand for spaces."""
        size, is_control = self.processor.GetPieceSize(), self.processor.IsControl
        return {
            index: piece
            for piece, index in self.special.items()
            if index >= size or is_control(index) or self.processor.IsUnknown(index)
        }

    def decode(self, ids: Sequence[int]) -> str:
        text, run = "", list[int]()
        for index in map(int, ids):
            if index in self._unwritten:
                text += self.processor.Decode(run) + self._unwritten[index]
                run = []
            else:
                run.append(index)
        return text + self.processor.Decode(run)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Load a model directory's tokenizer.json, or else its tokenizer.model."""
    directory = Path(directory)
    if (directory / "tokenizer.json").is_file():
        return BpeTokenizer.from_directory(directory)
    if (directory / "tokenizer.model").is_file():
        return SentencePieceTokenizer.from_directory(directory)
    raise UserError(
        f"{directory} has neither tokenizer.json nor tokenizer.model: copy one of them there"
    )


def _valid_unicode(text: str) -> str:
    # JSON can carry lone surrogates, which have no UTF-8 form: they become U+FFFD.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): fetch it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object: fetch it again")
    return config


def _read_template(directory: Path, config: dict[str, Any]) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        return {each["name"]: each["template"] for each in template}.get("default")
    return template


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found = {name: config.get(name) for name in ("bos_token", "eos_token")}
    # Older configurations store {"content": "<s>", ...} in place of the text.
    texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in found.items()}
    return {name: text for name, text in texts.items() if text}


def _special_pieces(
    processor: sentencepiece.SentencePieceProcessor, config: dict[str, Any]
) -> dict[str, int]:
    sizes = range(processor.GetPieceSize())
    special = {processor.IdToPiece(i): i for i in sizes if processor.IsControl(i)}
    # Gemma's are pieces that the model recognises in text, which no file needs to name again.
    ends = {token: processor.PieceToId(token) for token in _END_OF_TURN}
    special |= {token: index for token, index in ends.items() if not processor.IsUnknown(index)}
    added = config.get("added_tokens_decoder", {})
    return special | {entry["content"]: int(index) for index, entry in added.items()}


def _end_of_turn(vocab: Mapping[str, int], eos: str | None, source: object) -> int:
    for token in (*_END_OF_TURN, eos):
        if token is not None and token in vocab:
            return vocab[token]
    raise UserError(
        f"{source} has no token that ends a turn: name its eos_token in tokenizer_config.json"
    )
