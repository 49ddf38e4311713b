"""Out-of-domain suites: questions with exact checkers, and how well a policy answers them."""

from pivotrl_jax.evaluation.suites.accuracy import (
    accuracy,
    accuracy_change,
    mean_accuracy,
    mean_change,
    part_accuracy,
)
from pivotrl_jax.evaluation.suites.carried import carried_questions, spread
from pivotrl_jax.evaluation.suites.evaluate import evaluate_suites, greedy
from pivotrl_jax.evaluation.suites.procedural import PROCEDURES, reasoning_questions
from pivotrl_jax.evaluation.suites.questions import Question, as_chat, as_text, score

__all__ = [
    "PROCEDURES",
    "Question",
    "accuracy",
    "accuracy_change",
    "as_chat",
    "as_text",
    "carried_questions",
    "evaluate_suites",
    "greedy",
    "mean_accuracy",
    "mean_change",
    "part_accuracy",
    "reasoning_questions",
    "score",
    "spread",
]
