"""Answers against plain logits, and accuracies against sums by hand."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from pivotrl_jax.evaluation.suites import (
    Question,
    accuracy,
    accuracy_change,
    evaluate_suites,
    greedy,
    mean_accuracy,
    mean_change,
    part_accuracy,
)
from pivotrl_jax.evaluation.suites.answers import _by_length
from pivotrl_jax.evaluation.suites.evaluate import SCHEMA
from pivotrl_jax.models import init, logits
from pivotrl_jax.parallel import MeshSettings, make_mesh
from pivotrl_jax.sampling import EngineSettings
from pivotrl_jax.text import BpeTokenizer, ChatTemplate

CAP = 6
ENGINE = EngineSettings(rows=2, slots=2, chunk=2, row_multiple=16)
TEMPLATE = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}>")


@pytest.fixture(scope="module")
def tokenizer() -> BpeTokenizer:
    """One token per byte, and an end of turn."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "<|im_end|>"])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return BpeTokenizer(backend, vocab["<|im_end|>"], None, {})


@pytest.fixture(scope="module")
def model(tiny_cfg, tokenizer):
    cfg = dataclasses.replace(tiny_cfg, vocab=tokenizer.vocab_size)
    return init(jax.random.key(3), cfg), cfg


PROMPTS = ["a", "What?", "1 + 1 =", "sort: b, a, c", "How many legs have 2 cats and a dog?", "b"]
OPTIONS = [("yes", "no"), ("one cat", "two", "3", "no cat at all"), ("a", "b", "c")]


def written(prompt: str, check=lambda answer: (False,)) -> Question:
    return Question(f"w-{prompt}", "written", prompt, check)


def chosen(number: int, right: str) -> Question:
    options = OPTIONS[number]
    return Question(
        f"c-{number}", "chosen", PROMPTS[number], lambda a: (a == right,), right, options
    )


def next_logits(params, cfg, ids: list[int]) -> np.ndarray:
    row = np.pad(ids, (0, 64 - len(ids)))[None]
    return np.asarray(jax.jit(logits, static_argnums=1)(params, cfg, row))[0, : len(ids)]


def greedily(model, tokenizer, prompt: str) -> list[int]:
    ids = tokenizer.encode(prompt + ">")
    drawn: list[int] = []
    while len(drawn) < CAP and tokenizer.eot not in drawn:
        drawn.append(int(next_logits(*model, ids + drawn)[-1].argmax()))
    return drawn


def likeliest(model, tokenizer, number: int) -> str:
    prompt = tokenizer.encode(PROMPTS[number] + ">")

    def per_character(option: str) -> float:
        ids = tokenizer.encode(option)
        logp = jax.nn.log_softmax(jnp.asarray(next_logits(*model, prompt + ids)))
        return sum(float(logp[len(prompt) - 1 + t, i]) for t, i in enumerate(ids)) / len(option)

    return max(OPTIONS[number], key=per_character)


def evaluate(model, tokenizer, questions, sizes=(1, 1, 1)) -> list[dict]:
    mesh = make_mesh(MeshSettings(*sizes), jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh):
        table = evaluate_suites(
            *model, questions, tokenizer, TEMPLATE, jax.random.key(0), greedy(CAP), ENGINE, mesh
        )
    assert table.schema == SCHEMA
    return table.to_pylist()


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_answers_are_those_of_the_logits(model, tokenizer, sizes):
    # The end of turn is a token that some answers have after the first.
    plain = [greedily(model, tokenizer, prompt) for prompt in PROMPTS]
    eot = next(ids[2] for ids in plain if ids[2] not in ids[:2])
    ending = dataclasses.replace(tokenizer, eot=eot)
    drawn = [greedily(model, ending, prompt) for prompt in PROMPTS]
    best = [likeliest(model, tokenizer, number) for number in range(len(OPTIONS))]
    right = tokenizer.decode([t for t in drawn[1] if t != eot])
    questions = [written(prompt, lambda a: (True, a == right)) for prompt in PROMPTS]
    questions[2:2] = [chosen(0, best[0]), chosen(1, "two" if best[1] == "3" else "3")]
    questions.append(chosen(2, best[2]))

    rows = evaluate(model, ending, questions, sizes)

    assert [row["question_id"] for row in rows] == [question.id for question in questions]
    answers = {row["question_id"]: row for row in rows}
    for prompt, ids in zip(PROMPTS, drawn, strict=True):
        row = answers[f"w-{prompt}"]
        assert row["answer"] == tokenizer.decode([t for t in ids if t != eot])
        assert (row["tokens"], row["truncated"]) == (len(ids), eot not in ids)
    assert len({row["truncated"] for row in rows}) == 2
    assert [answers[f"c-{number}"]["answer"] for number in range(3)] == best
    assert [answers[f"c-{number}"]["score"] for number in range(3)] == [1, 0, 1]
    assert answers["w-What?"]["score"] == 1
    assert answers["w-What?"]["parts"] == [True, True]
    assert [row["parts"] for row in rows if row["suite"] == "written" and not row["score"]] == [
        [True, False]
    ] * sum(row["answer"] != right for row in rows if row["suite"] == "written")


def test_one_kind_of_question_alone(model, tokenizer):
    (row,) = evaluate(model, tokenizer, [written("b")])
    assert row["tokens"] > 0
    assert evaluate(model, tokenizer, [chosen(2, "a")])[0]["answer"] in OPTIONS[2]
    assert evaluate(model, tokenizer, []) == []


@given(lengths=st.lists(st.integers(1, 300), max_size=40), rows=st.integers(1, 8))
def test_prompts_that_are_sampled_together_are_about_as_long(lengths, rows):
    buckets = _by_length(lengths, EngineSettings(rows=rows, row_multiple=16))
    assert sorted(i for own in buckets for i in own) == list(range(len(lengths)))
    assert all(len(own) >= rows for own in buckets[:-1])
    # 16, 32, ... 512 are the widths.
    assert len(buckets) <= 6
    for own, after in itertools.pairwise(buckets):
        assert max(lengths[i] for i in own) < min(lengths[i] for i in after)


def test_few_long_prompts_do_not_lengthen_many_short_ones():
    lengths = [200, *[10] * 8, 100, 30]
    assert _by_length(lengths, EngineSettings(rows=8, row_multiple=16)) == [
        [*range(1, 9)], [10, 9, 0]
    ]  # fmt: skip


def table(scores: dict[str, tuple[str, list[bool]]]) -> pa.Table:
    rows = [
        {"question_id": q, "suite": suite, "score": float(all(parts)), "parts": parts}
        for q, (suite, parts) in scores.items()
    ]
    empty = {"answer": "", "truncated": False, "tokens": 0}
    return pa.Table.from_pylist([row | empty for row in rows], SCHEMA)


Y, N = True, False
BEFORE = {
    "a1": ("a", [Y]), "a2": ("a", [N]), "a3": ("a", [N]), "a4": ("a", [Y]),
    "b1": ("b", [Y, Y, N]), "b2": ("b", [Y]),
}  # fmt: skip
AFTER = {
    "a2": ("a", [Y]), "a1": ("a", [Y]), "a3": ("a", [N]), "a5": ("a", [N]),
    "b1": ("b", [Y, Y, Y]), "b2": ("b", [N]), "c1": ("c", [Y]),
}  # fmt: skip


def test_accuracy_is_by_question_and_by_part():
    assert {k: v.mean for k, v in accuracy(table(BEFORE), 0).items()} == {"a": 0.5, "b": 0.5}
    assert {k: v.mean for k, v in part_accuracy(table(BEFORE), 0).items()} == {"a": 0.5, "b": 0.75}
    assert mean_accuracy(table(BEFORE), 0).mean == 0.5


def test_changes_pair_the_questions_that_both_have():
    changes = accuracy_change(table(AFTER), table(BEFORE), 0)
    assert {k: v.mean for k, v in changes.items()} == {"a": pytest.approx(1 / 3), "b": 0}
    assert mean_change(table(AFTER), table(BEFORE), 0).mean == pytest.approx(1 / 6)
    assert mean_change(table(BEFORE), table(AFTER), 0).mean == pytest.approx(-1 / 6)


def test_the_interval_of_the_mean_is_that_of_draws_within_suites():
    rng = np.random.default_rng(0)
    suites = {"a": rng.random(200) < 0.9, "b": rng.random(40) < 0.2, "c": rng.random(90) < 0.5}
    scores = {f"{k}{i}": (k, [bool(x)]) for k, own in suites.items() for i, x in enumerate(own)}
    draws = [
        np.mean([rng.choice(own, len(own)).mean() for own in suites.values()]) for _ in range(4000)
    ]
    found = mean_accuracy(table(scores), seed=1)
    assert found.mean == pytest.approx(np.mean([own.mean() for own in suites.values()]))
    np.testing.assert_allclose(
        [found.low, found.high], np.quantile(draws, [0.025, 0.975]), atol=0.005
    )


def test_the_interval_of_the_mean_stays_within_what_scores_can_be():
    few, many = {"a1": ("a", [N]), "a2": ("a", [Y])}, {f"b{i}": ("b", [Y]) for i in range(200)}
    found = mean_accuracy(table(few | many), seed=0)
    assert (found.mean, found.low, found.high) == (0.75, 0.5, 1.0)
