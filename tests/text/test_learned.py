"""A tokenizer learned from a real dialogue: what it does to any text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.errors import UserError
from pivotrl_jax.text import ChatTemplate, Tokenizer, learn_tokenizer, load_tokenizer
from pivotrl_jax.trajectories.schema import Trajectory

SIZE = 600
SPACE = "\u2581"
MARKERS = ("<|im_start|>", "<|im_end|>")
# Pieces of what looks like control text, among everything else.
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet=st.sampled_from(" \n\t\r0123456789aé日🏳\u200d\x00")),
    st.lists(st.sampled_from(["<|", "im_start", "|>", "<unk>", "</s>", "<0x41>", " ", "7"])).map(
        "".join
    ),
)


@pytest.fixture(scope="module")
def texts(trajectory: Trajectory) -> list[str]:
    """What the dialogue says, and numbers so often that they would become pieces if they could."""
    return [*(message.content for message in trajectory.messages), "1024 of 4096 in 2024\n" * 200]


@pytest.fixture(scope="module")
def directory(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("learned")
    for name, content in learn_tokenizer(texts, SIZE).items():
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture(scope="module")
def learned(directory: Path) -> Tokenizer:
    return load_tokenizer(directory)


@given(text=TEXTS)
def test_every_text_comes_back(learned: Tokenizer, text: str) -> None:
    # JSON can carry lone surrogates, which have no UTF-8 form.
    wanted = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert learned.decode(learned.encode(text)) == wanted.replace(SPACE, " ")


@given(text=TEXTS)
def test_no_text_but_the_markers_makes_control_pieces(learned: Tokenizer, text: str) -> None:
    control = {learned.encode(marker)[0] for marker in MARKERS}
    assert len(control) == 2
    found = [index for index in learned.encode(text) if index in control]
    assert len(found) == sum(map(text.count, MARKERS))


@given(number=st.integers(0), after=st.sampled_from(["", " ", "a", "x = "]))
def test_every_digit_is_a_piece_of_its_own(learned: Tokenizer, number: int, after: str) -> None:
    pieces = [learned.decode([index]) for index in learned.encode(f"{after}{number}")]
    assert [piece for piece in pieces if any(map(str.isdigit, piece))] == list(str(number))


def test_real_messages_come_back_in_fewer_pieces(learned: Tokenizer, texts: list[str]) -> None:
    for text in texts:
        assert learned.decode(learned.encode(text)) == text
    assert learned.vocab_size == SIZE
    assert sum(len(learned.encode(text)) for text in texts) < 0.6 * sum(map(len, texts))


def test_dialogues_end_their_turns(learned: Tokenizer) -> None:
    template = ChatTemplate.from_tokenizer(learned)
    chat = [{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": "4"}]
    text = template.render(chat)
    assert text == "<|im_start|>user\n2 + 2<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
    assert learned.encode(text).count(learned.eot) == 2
    assert learned.decode([learned.eot]) == "<|im_end|>"
    assert learned.decode(learned.encode(text)) == text


def test_the_same_texts_give_the_same_files(texts: list[str], directory: Path) -> None:
    for name, content in learn_tokenizer(iter(texts), SIZE).items():
        assert (directory / name).read_bytes() == content


def test_few_texts_give_few_pieces() -> None:
    files = learn_tokenizer(["hello hello"], SIZE)
    assert b"hello" in files["tokenizer.model"]
    assert len(files["tokenizer.model"]) < 6_000


@pytest.mark.parametrize(
    ("texts", "size", "reason"),
    [([], SIZE, "there is no text"), (["some words"], 100, "100 vs 26")],
)
def test_what_cannot_be_learned_is_told(texts: list[str], size: int, reason: str) -> None:
    with pytest.raises(UserError, match=rf"no tokenizer of {size} pieces .*{reason}"):
        learn_tokenizer(texts, size)
