"""A real dialogue, and small tokenizers trained on it."""

import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from pivotrl_jax.text import BpeTokenizer, ChatTemplate, Tokenizer, load_tokenizer
from pivotrl_jax.trajectories.schema import Message, ToolCall, Trajectory

HERE = Path(__file__).parent
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def golden() -> dict:
    return json.loads((HERE / "golden" / "smollm2.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def smollm2(golden: dict) -> BpeTokenizer:
    """The part of SmolLM2's tokenizer that the golden texts need, with ids of its own."""
    return BpeTokenizer.from_gguf(
        golden["tokens"],
        golden["merges"],
        golden["token_types"],
        "smollm",
        golden["tokens"].index("<|im_end|>"),
        golden["chat_template"],
        bos_id=golden["tokens"].index("<|im_start|>"),
    )


@pytest.fixture(scope="session")
def chatml(golden: dict) -> ChatTemplate:
    return ChatTemplate(golden["chat_template"])


@pytest.fixture(scope="session")
def trajectory() -> Trajectory:
    record = json.loads((HERE / "data" / "mini_swe_agent.json").read_text(encoding="utf-8"))
    messages = tuple(
        Message(
            entry["role"],
            entry["content"],
            tuple(ToolCall(**call) for call in entry.get("calls", ())),
        )
        for entry in record["messages"]
    )
    return Trajectory("django-14915", messages, "django__django-14915", "swe", "carried:1")


@pytest.fixture(scope="session")
def bpe_directory(trajectory: Trajectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([m.content for m in trajectory.messages], trainer)
    directory = tmp_path_factory.mktemp("bpe")
    backend.save(str(directory / "tokenizer.json"))
    config = {"eos_token": {"content": "<|endoftext|>"}, "chat_template": "{{ messages }}"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def sentencepiece_directory(
    trajectory: Trajectory, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    directory = tmp_path_factory.mktemp("sentencepiece")
    lines = [line for m in trajectory.messages for line in m.content.splitlines() if line]
    with open(directory / "tokenizer.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            vocab_size=512,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            control_symbols=["<|im_start|>", "<|im_end|>"],
            minloglevel=2,
        )
    return directory


@pytest.fixture(scope="session", params=["bpe_directory", "sentencepiece_directory"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return load_tokenizer(request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def bpe(bpe_directory: Path) -> Tokenizer:
    return load_tokenizer(bpe_directory)
