"""Questions that `reasoning-gym` generates, easy enough for a model of a few million parameters.

Generators, right answers and `score_answer` are that package's; a score of 1.0 counts as right.
Their prompts are cut down to the question, which for so small a model is most of the work.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pivotrl_jax.environments import Split
from pivotrl_jax.errors import UserError
from pivotrl_jax.evaluation.suites.questions import Question


@dataclasses.dataclass(frozen=True)
class Procedure:
    """Settings of a reasoning-gym data set, and the parts of its prompts that are left out."""

    settings: Mapping[str, Any]
    left_out: tuple[str, ...] = ()


PROCEDURES: Mapping[str, Procedure] = {
    "chain_sum": Procedure(
        {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
        ("State the final answer to the following arithmetic problem: ",),
    ),
    "gcd": Procedure({"max_value": 99}, (" Give only the GCD as your final answer.",)),
    "leg_counting": Procedure(
        {"min_animals": 1, "max_animals": 2, "max_instances": 5},
        (
            "Your task is to count how many legs there are in total when given a list of animals.",
            "Now, ",
        ),
    ),
    "letter_counting": Procedure({"min_words": 3, "max_words": 5}),
    "number_filtering": Procedure(
        {"min_numbers": 2, "max_numbers": 4, "max_decimals": 0, "min_value": 0, "max_value": 99},
        ("\nReturn the new list in the same format.",),
    ),
    "simple_equations": Procedure({"min_terms": 1, "max_terms": 2, "max_value": 10}),
    "spell_backward": Procedure(
        {"min_word_len": 3, "max_word_len": 5}, (" (example: sun -> nus)",)
    ),
    "syllogism": Procedure(
        {"invalid_ratio": 0.5}, ("Consider these statements:\n", "(Answer Yes or No)")
    ),
    "word_sequence_reversal": Procedure(
        {"min_words": 2, "max_words": 4},
        (
            "Solve the following problem.",
            "Provide you answer as a comma-separated list of words with a space after the comma.",
        ),
    ),
    "word_sorting": Procedure(
        {"min_words": 2, "max_words": 3, "max_word_length": 6},
        (
            "Your task is to sort words in ascending or descending order using ASCII/Unicode "
            "ordering.",
            "Your output should be a comma-separated list of words, e.g. word_1, word_2, word_3",
            "Now, ",
            " (using ASCII/Unicode ordering) and return them as a comma-separated list",
        ),
    ),
}

# Of ten prompts, by their hashes: one is for tests, one for validation, the rest for training.
_TENTHS: Mapping[int, Split] = {0: "test", 1: "validation"}
# Generators repeat themselves: after so many draws without a new question there are none left.
_PATIENCE = 5_000
# Of a data set, which is made item by item; any number that is never reached.
_ENDLESS = 1 << 40


def reasoning_questions(
    names: Sequence[str], split: Split, count: int, seed: int
) -> list[Question]:
    """`count` different questions of each of `PROCEDURES` named, the same for the same seed.

    The text of a prompt alone decides its split, so that no split shares a prompt with another,
    whatever their seeds and counts. UserError where a name is unknown, there are not so many
    different questions, or reasoning-gym is not installed.
    """
    return [q for name in names for q in _distinct(name, split, count, seed)]


def _distinct(name: str, split: Split, count: int, seed: int) -> list[Question]:
    found: dict[str, Question] = {}
    misses = 0
    for question in _stream(name, seed):
        if len(found) == count or misses == _PATIENCE:
            break
        new = question.id not in found and split_of(question.prompt) == split
        if new:
            found[question.id] = question
        misses = 0 if new else misses + 1
    if len(found) < count:
        raise UserError(
            f"reasoning-gym's {name} has only about {len(found)} different {split} questions as it "
            f"is set up; ask for fewer than {count}"
        )
    return list(found.values())


def split_of(prompt: str) -> Split:
    """The split that a prompt belongs to."""
    return _TENTHS.get(int(_digest(prompt), 16) % 10, "train")


def _stream(name: str, seed: int) -> Iterator[Question]:
    if name not in PROCEDURES:
        raise UserError(f"no procedural task {name!r}; choose among {', '.join(PROCEDURES)}")
    procedure = PROCEDURES[name]
    # Item i of seed s is item 0 of seed s + i there, so neighbouring seeds would share questions.
    apart = int(_digest(f"{name} {seed}"), 16)
    entries = _gym().create_dataset(name, size=_ENDLESS, seed=apart, **procedure.settings)
    for entry in entries:
        prompt = entry["question"]
        for part in procedure.left_out:
            prompt = prompt.replace(part, "")
        yield _question(name, prompt.strip(), entry, entries)


def _question(name: str, prompt: str, entry: Mapping[str, Any], entries: Any) -> Question:
    return Question(
        id=f"{name}-{_digest(prompt)}",
        suite=name,
        prompt=prompt,
        check=lambda answer: (entries.score_answer(answer.strip(), entry) == 1.0,),
        answer=entry["answer"],
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _gym() -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise UserError(
            "procedural tasks need reasoning-gym, which is not installed; "
            "run `pip install -r requirements-study.txt`"
        ) from error
    return reasoning_gym
