"""The carried sets: what is read, how it is asked and what counts as right."""

import gzip
import json
from pathlib import Path

import pytest

from pivotrl_jax.errors import UserError
from pivotrl_jax.evaluation import read_texts
from pivotrl_jax.evaluation.suites import as_chat, carried_questions, score

OOD = Path(__file__).parents[3] / "experiments/data/ood"
DATA = OOD / "questions"
SIZES = {"gsm8k": 300, "svamp": 300, "mmlu": 456, "ifeval": 510}


@pytest.fixture(scope="module")
def questions() -> dict[str, list]:
    return {name: carried_questions(DATA, [name]) for name in SIZES}


def test_sizes_and_ids(questions):
    assert {name: len(own) for name, own in questions.items()} == SIZES
    ids = [question.id for own in questions.values() for question in own]
    assert len(set(ids)) == len(ids)
    assert all(question.suite == name for name, own in questions.items() for question in own)


@pytest.mark.parametrize("name", ["gsm8k", "svamp", "mmlu"])
def test_right_answers_are_right_and_those_of_others_are_not(questions, name):
    own = questions[name]
    assert all(score(question, as_chat(question)[1]["content"]) == 1 for question in own)
    shifted = zip(own, own[1:] + own[:1], strict=True)
    assert sum(score(question, other.answer) for question, other in shifted) < len(own) / 10


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        # Janet's ducks: 18 dollars.
        ("gsm8k-test-0", "16 - 3 - 4 = 9 eggs, so 9 * 2 = $18.00.", 1),
        ("gsm8k-test-0", "#### 18\nThe answer is: 18", 1),
        ("gsm8k-test-0", "She sells 18 of 20.", 0),
        # What SmolLM2-135M-Instruct answered: it ends as the solutions that it was trained on do.
        ("svamp-chal-982", "39 - 62 = 12 campers.\n#### 12\nThe answer is: 12", 0),
        ("svamp-chal-982", "62 - 39 = 23 campers.\n#### 23\nThe answer is: 23", 1),
    ],
)
def test_worked_answers(questions, question, answer, right):
    (found,) = (q for own in questions.values() for q in own if q.id == question)
    assert score(found, answer) == right


def test_a_choice_is_among_its_options(questions):
    for question in questions["mmlu"]:
        assert len(question.options) == 4
        assert sum(score(question, option) for option in set(question.options)) == 1


def test_a_part_of_a_set_is_spread_over_it(questions):
    few = carried_questions(DATA, ["mmlu", "svamp"], 57)
    assert len(few) == 114
    subjects = {question.id.rsplit("-", 1)[0] for question in few[:57]}
    assert len(subjects) == 57
    assert carried_questions(DATA, ["svamp"], 10_000)[-1].id == questions["svamp"][-1].id


def test_the_texts_for_perplexity_are_the_folder_above():
    assert {name: len(own) for name, own in read_texts(OOD, None).items()} == {
        "gsm8k": 60,
        "ifeval": 60,
        "mmlu": 57,
    }


def write(path: Path, *lines: str) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    return path.parent


GOOD = json.dumps({"id": "a", "question": "2 + 2?", "answer": "4"})


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"id": "a", "question": "2 + 2?"}', '{"id": "a", "question": "q", "answer": "x"}'],
)
def test_a_line_that_is_no_question_is_named(tmp_path, line):
    with pytest.raises(UserError, match=r"gsm8k\.jsonl\.gz:2 is no gsm8k question .*; correct"):
        carried_questions(write(tmp_path / "gsm8k.jsonl.gz", GOOD, line), ["gsm8k"])


def test_an_instruction_without_its_argument_is_named(tmp_path):
    line = {"id": "a", "prompt": "p", "instruction_id_list": ["length_constraints:number_words"]}
    folder = write(tmp_path / "ifeval.jsonl.gz", json.dumps(line | {"kwargs": [{}]}))
    with pytest.raises(UserError, match=r"ifeval\.jsonl\.gz:1 is no ifeval question .KeyError"):
        carried_questions(folder, ["ifeval"])


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"svamp\.jsonl\.gz cannot be read"):
        carried_questions(tmp_path, ["svamp"])
    file = write(tmp_path / "svamp.jsonl.gz", GOOD * 50) / "svamp.jsonl.gz"
    for broken in (file.read_bytes()[:-20], b"{}", gzip.compress(b"\xff")):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=r"svamp\.jsonl\.gz cannot be read"):
            carried_questions(tmp_path, ["svamp"])
    with pytest.raises(UserError, match="'squad'; choose among gsm8k, svamp, mmlu, ifeval"):
        carried_questions(tmp_path, ["squad"])


def test_ifeval_has_no_answer_to_train_on(questions):
    with pytest.raises(ValueError, match="no right answer"):
        as_chat(questions["ifeval"][0])
