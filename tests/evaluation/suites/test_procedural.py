"""Questions of reasoning-gym: splits, seeds and its own verdicts."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.errors import UserError
from pivotrl_jax.evaluation.suites import PROCEDURES, as_text, reasoning_questions, score
from pivotrl_jax.text import ChatTemplate


@pytest.fixture(scope="module")
def questions() -> dict[str, list]:
    return {name: reasoning_questions([name], "test", 40, seed=0) for name in PROCEDURES}


@pytest.mark.parametrize("name", sorted(PROCEDURES))
def test_right_answers_are_right_and_those_of_others_are_not(questions, name):
    own = questions[name]
    assert all(score(question, question.answer) == 1 for question in own)
    assert all(score(question, f" {question.answer}\n") == 1 for question in own)
    wrong = [other.answer for q in own for other in own if other.answer != q.answer]
    pairs = [(q, other.answer) for q in own for other in own if other.answer != q.answer]
    assert len(wrong) > len(own)
    assert sum(score(question, answer) for question, answer in pairs) == 0


@pytest.mark.parametrize("name", sorted(PROCEDURES))
def test_prompts_are_short_and_so_are_answers(questions, name):
    assert max(len(question.prompt) for question in questions[name]) <= 140
    assert max(len(question.answer) for question in questions[name]) <= 50


@pytest.mark.parametrize(
    ("name", "prompt", "right", "wrong"),
    [
        # A number in a sentence, a letter too few: reasoning-gym gives a part, here it is wrong.
        ("chain_sum", "20 + 47 + 23 =", ["90", "90.0", "+90"], ["The answer is 90", "9", ""]),
        ("spell_backward", "Spell this word backward: polk", ["klop", "KLOP"], ["klo", "klopp"]),
    ],
)
def test_only_a_whole_answer_is_right(name, prompt, right, wrong):
    questions = reasoning_questions([name], "test", 100, seed=1)
    (question,) = (q for q in questions if q.prompt == prompt)
    assert [score(question, answer) for answer in right] == [1.0] * len(right)
    assert [score(question, answer) for answer in wrong] == [0.0] * len(wrong)


@pytest.mark.parametrize("name", sorted(PROCEDURES))
def test_no_split_shares_a_prompt_with_another(name):
    prompts = {
        split: {q.prompt for seed in (0, 1) for q in reasoning_questions([name], split, 150, seed)}
        for split in ("train", "validation", "test")
    }
    assert all(len(own) > 150 for own in prompts.values())
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["validation"]
    assert not prompts["validation"] & prompts["test"]


def test_same_seed_same_questions():
    def ids(seed: int) -> list[str]:
        return [q.id for q in reasoning_questions(["gcd", "syllogism"], "train", 50, seed)]

    assert ids(3) == ids(3)
    assert len(set(ids(3))) == 100
    # reasoning-gym's own items of neighbouring seeds are the same but for one.
    assert len(set(ids(3)) & set(ids(4))) < 10


def test_the_prompts_that_are_cut_are_those_of_the_package():
    import reasoning_gym

    for name, procedure in PROCEDURES.items():
        data = reasoning_gym.create_dataset(name, size=1, seed=0, **procedure.settings)
        assert all(part in data[0]["question"] for part in procedure.left_out), name


def test_a_task_without_so_many_questions_says_how_many_it_has():
    with pytest.raises(UserError, match=r"gcd has only about 9\d\d different test questions"):
        reasoning_questions(["gcd"], "test", 10_000, seed=0)


def test_an_unknown_task_is_named():
    with pytest.raises(UserError, match="no procedural task 'gdc'; choose among chain_sum, gcd"):
        reasoning_questions(["gdc"], "test", 1, seed=0)


def test_without_the_package_the_requirements_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-study\.txt"):
        reasoning_questions(["gcd"], "test", 1, seed=0)


def test_text_to_train_on_ends_with_the_answer(questions):
    template = ChatTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    question = questions["leg_counting"][0]
    assert as_text(question, template) == f"<user>{question.prompt}<assistant>{question.answer}"


@given(answer=st.text(max_size=40) | st.text(alphabet="0123456789.,-+eE[]'\" sNan", max_size=40))
def test_any_answer_has_a_verdict(questions, answer):
    assert all(score(own[0], answer) in (0.0, 1.0) for own in questions.values())


@pytest.mark.parametrize("answer", ["9" * 100_000, "1e999999999", "[" * 100_000, ", " * 50_000])
def test_hostile_answers_are_wrong(questions, answer):
    assert all(score(own[0], answer) == 0 for own in questions.values())
