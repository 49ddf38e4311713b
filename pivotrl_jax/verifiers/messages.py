"""Comparing turns that are text only."""

from collections.abc import Iterable

from pivotrl_jax.trajectories.schema import Context, Message
from pivotrl_jax.verifiers.texts import dice, facts, plain, word_ratio

_CRITERIA = ("similarity", "facts", "question", "exact")


def compare_messages(expected: str, actual: str, context: Context) -> dict[str, float]:
    """The criteria of a message, each in [0, 1]; all 0 where either is blank.

      similarity  of the sequences of words
      facts       F1 overlap of the numbers, ids, addresses and quotations that they state; what
                  only the sample states counts against it unless the dialogue has said it before
      question    both ask, or neither does: a question mark outside of addresses
      exact       the same text up to NFC and outer white space

    They read surface only. A paraphrase in other words scores low; a refusal in the words of a
    consent scores high; "yes" and "no" differ by one word. Where that matters, ask a judge.
    """
    if not expected.strip() or not actual.strip():
        return dict.fromkeys(_CRITERIA, 0.0)
    return {
        "similarity": word_ratio(expected, actual),
        "facts": _common_facts(facts(expected), facts(actual), context.history),
        "question": float(_asks(expected) == _asks(actual)),
        "exact": float(plain(expected) == plain(actual)),
    }


def _common_facts(
    expected: frozenset[str], actual: frozenset[str], history: Iterable[Message]
) -> float:
    if actual - expected:
        known = frozenset(fact for message in history for fact in facts(message.content))
        actual = actual - (known - expected)
    return dice(expected, actual)


def _asks(text: str) -> bool:
    return any("?" in word and "://" not in word for word in text.split())
