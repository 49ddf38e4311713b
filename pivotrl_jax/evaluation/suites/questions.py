"""What a question of an out-of-domain set is, and what an answer to it is worth."""

import dataclasses
from collections.abc import Callable, Sequence

from pivotrl_jax.text import ChatTemplate


@dataclasses.dataclass(frozen=True)
class Question:
    """One question; `id` names it in every run, so that policies can be compared question by
    question.

    `check` says of each part of an answer whether it is right: of IFEval's instructions one by
    one, elsewhere of the answer as a whole. `answer` is a right answer where there is one to write
    down. A question with `options` is not answered in writing: the likeliest of them is the answer.
    """

    id: str
    suite: str
    prompt: str
    check: Callable[[str], Sequence[bool]]
    answer: str | None = None
    options: tuple[str, ...] = ()


def score(question: Question, answer: str) -> float:
    """1.0 where every part of the answer is right, else 0.0. Never raises, whatever the answer."""
    return float(all(question.check(answer)))


def as_chat(question: Question) -> list[dict[str, str]]:
    """The question and its right answer as a dialogue; ValueError where no such answer is known."""
    if question.answer is None:
        raise ValueError(f"question {question.id} has no right answer to write down")
    return [*asked(question), {"role": "assistant", "content": question.answer}]


def as_text(question: Question, template: ChatTemplate) -> str:
    """`as_chat` as text to train on."""
    return template.render(as_chat(question))


def asked(question: Question) -> list[dict[str, str]]:
    """The dialogue up to the answer."""
    return [{"role": "user", "content": question.prompt}]


def prompt_text(question: Question, template: ChatTemplate) -> str:
    """The text that an answer continues."""
    return template.render(asked(question), add_generation_prompt=True)
