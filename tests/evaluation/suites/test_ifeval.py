"""Each instruction's checker on answers that follow it and answers that do not."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pivotrl_jax.evaluation.suites import carried_questions
from pivotrl_jax.evaluation.suites.ifeval import CHECKS, follows
from pivotrl_jax.evaluation.suites.ifeval_text import paragraphs, sentences

DATA = Path(__file__).parents[3] / "experiments/data/ood/questions"

# instruction, arguments, answers that follow it, answers that do not
CASES = [
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 3},
        ["NASA and the U.S. said I can.", "DON'T STOP NOW", "A-B SELF-MADE PS5"],
        ["NASA said no.", "Don't Stop Now", "DON'T SELF-MADE"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "less than", "capital_frequency": 2},
        ["One WORD here.", "none"],
        ["TWO WORDS"],
    ),
    ("change_case:english_capital", {}, ["ALL OF IT, 100 %."], ["NOT aLL", "12 34"]),
    ("change_case:english_lowercase", {}, ["all of it, 100 %."], ["Not all", "12 34"]),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a haiku.\nMake it funny."},
        ["Write a haiku.\nMake it funny.\n\nA frog", "WRITE A HAIKU. Make it funny. ok"],
        ["Sure! Write a haiku.\nMake it funny. A frog", "Write a haiku.\nMake it funny.", "A frog"],
    ),
    (
        "combination:two_responses",
        {},
        ["one\n******\ntwo", "******\none\n******\ntwo\n******"],
        ["one", "one ****** one", "one ****** two ****** three", "one ****** ****** two"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] of [address]", "[a][b][c]"],
        ["[name]", "[] []", "[na\nme] [x]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\n\nP.S. call me", "Bye. p. s. call me", "Bye\n**P.S.** call", "Bye\nP.S.\nCall me"],
        ["Bye.", "Bye.\nP.P.S. call me", "Bye.\nP.S.", "Bye.\nPS call me"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["Bye.\nP.P.S call me", "Bye.\nP.P.S. call me", "Bye.\nP. P. S. call me"],
        ["Bye.\nP.S. call me", "Bye.\nP.P.S", "Bye.\nP.P.STOP it"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is no.", "Let me think. My answer is maybe. Bye."],
        ["no", "My answer is yes. My answer is no.", "my answer is no."],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', "```\n[1]\n```", '```JSON {"a": 1} ```'],
        ["{'a': 1}", 'Here: {"a": 1}', "12", "``````", "[" * 100_000, "1" * 10_000],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "**SECTION 1:** a\n## SECTION 2", '"SECTION1\n SECTION  2'],
        ["SECTION 1", "Section 1\nSection 2", "As SECTION 1 and SECTION 2", "SECTION A\nSECTION B"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "Here:\n  - a\n\n  - b\nBye.", "* **a**\n+ b"],
        ["* a", "* a\n* b\n* c", "**a**\n*b*", "-a\n-b", "* a\n- - -\n", "* a\n---\n*"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two words*", "**one** and *two*", "* *one* item\n* ***two***"],
        ["*one*", "**one**", "* one\n* two\n* three", "2 * 3 * 4 * 5", "*one\n* two*", "****"],
    ),
    (
        "detectable_format:title",
        {},
        ["<<Joy>>\nIt is.", "a <<b c>> d"],
        ["<Joy>", "<<>>", "<< >>", "<<a\nb>>"],
    ),
    (
        "keywords:existence",
        {"keywords": ["mom", "mother"]},
        ["My Mom is a MOTHER.", "mother/mom"],
        ["My mom", "moment mother", "moms mothers"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["rock", "C++"]},
        ["Rocky rockets", "C", "granite"],
        ["Rock!", "in C++.", "a rock-solid plan"],
    ),
    (
        "keywords:frequency",
        {"keyword": "the ", "frequency": 2, "relation": "at least"},
        ["The end of the day", "the the the"],
        ["the end of then other", "a"],
    ),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "less than"},
        ["War is a warning.", "peace"],
        ["War, war."],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "T", "let_frequency": 2, "let_relation": "less than"},
        ["one t", "none"],
        ["Two t"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        ["#a #b"],
        ["#a b"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Jasper"},
        ["One.\n\nJasper two.", "One.\n \n\n\n**Jasper**, two.\n\n", "One.\n\n'jasper' two"],
        ["Jasper.\n\nTwo.", "One.\nJasper", "One.\n\nJasper.\n\nThree", "One.\n\nJaspers", "One."],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["one\n***\ntwo", "***\none *** two\n***"],
        ["one", "one\n\ntwo", "one *** two *** three", "one *** *** two"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sections": 0, "num_sentences": 3, "relation": "less than"},
        ["One. Two!", "One", "Dr. A. Smith, e.g. of Ohio, is 3.5 m tall. Yes?"],
        ["One. Two? Three!", "One. Two. And three"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        ['He said "No." Then he left.', "Wait... what?", "1. Buy milk.\n2. Buy eggs."],
        ["Title\nOne sentence.", "1. Buy milk", "..."],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        ["one two three four", "don't stop it", "1 2 3 4 5"],
        ["one two three", "one - two - three"],
    ),
    ("punctuation:no_comma", {}, ["no; comma."], ["a, b", "1,000"]),
    (
        "startend:end_checker",
        {"end_phrase": "Anything else I can help with?"},
        ['"Hi. anything else I can help with?"', "anything else I can help with?\n"],
        ["Anything else I can help with? Bye.", "Hi"],
    ),
    ("startend:quotation", {}, ['"a"', ' “a”\n', '""'], ['"a', 'a"', '"', 'He said "a"', "'a'"]),
]  # fmt: skip


def told(accepted: bool) -> list:
    return [
        pytest.param(answer, name, arguments, id=f"{name}-{answer[:30]!r}")
        for name, arguments, good, bad in CASES
        for answer in (good if accepted else bad)
    ]


@pytest.mark.parametrize(("answer", "name", "arguments"), told(True))
def test_follows(answer, name, arguments):
    assert follows(answer, name, arguments)


@pytest.mark.parametrize(("answer", "name", "arguments"), told(False))
def test_does_not_follow(answer, name, arguments):
    assert not follows(answer, name, arguments)


def test_every_instruction_has_cases():
    assert {name for name, *_ in CASES} == set(CHECKS)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_an_empty_answer_follows_nothing(name):
    arguments = next(a for n, a, *_ in CASES if n == name)
    assert not follows(" \n", name, arguments)


def test_what_is_left_out_of_the_carried_prompts():
    with gzip.open(DATA / "ifeval.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    left_out = [name for row in rows for name in row["instruction_id_list"] if name not in CHECKS]
    assert left_out == ["language:response_language"] * 31
    questions = carried_questions(DATA, ["ifeval"])
    assert (len(rows), len(questions)) == (541, 510)
    # Every carried instruction has the arguments that its checker reads.
    assert sum(len(question.check("One. Two, [three].")) for question in questions) == 783


REAL = [
    ("ifeval-1001", "Thou art bound for Japan; Kyoto first then Tokyo.", [True]),
    ("ifeval-1001", "First, Kyoto.", [False]),
    ("ifeval-1000", "*a* *b* *c*" + " word" * 300, [True, True, True]),
    ("ifeval-1000", "*a* *b*, short", [False, False, False]),
]


@pytest.mark.parametrize(("question", "answer", "parts"), REAL)
def test_real_prompts(question, answer, parts):
    (found,) = (q for q in carried_questions(DATA, ["ifeval"]) if q.id == question)
    assert list(found.check(answer)) == parts


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("No.", 1),
        ("Mr. and Mrs. Day met J. R. Ewing vs. him. Fine.", 2),
        ("It was I. It was me.", 2),
        ("“Go!” she said. (He went.) *Now*", 4),
        ("a\nb\nc", 1),
        ("See 3.14 and www.a.org now", 1),
        ("! ? .", 0),
    ],
)
def test_sentences(text, count):
    assert sentences(text) == count


def test_paragraphs_are_parted_by_blank_lines():
    assert paragraphs("\n\na\nb\n \t\nc\n\n\n\nd\n") == ["a\nb", "c", "d"]


HOSTILE = (
    "*", "* ", "*a ", "<", "<<a", "[", "\n ", "p.s.", "P.P.S ", '{"a":', "SECTION ",
    ".!?", "A-", "the ",
)  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_answers_have_a_verdict(piece):
    for name, arguments, *_ in CASES:
        assert follows(piece * 20_000, name, arguments) in (True, False)


@given(st.text(alphabet='*<>[]{}"“.,#-\n aAIPS1', max_size=80))
def test_any_answer_has_a_verdict(text):
    for name, arguments, *_ in CASES:
        assert follows(text, name, arguments) in (True, False)
