"""Turn accuracy on held-out candidates and retention on other text."""

from pivotrl_jax.evaluation.bootstrap import Interval, clustered_mean, paired_difference
from pivotrl_jax.evaluation.perplexity import perplexity, read_texts
from pivotrl_jax.evaluation.turns import EvaluationSettings, heldout_difference, heldout_reward

__all__ = [
    "EvaluationSettings",
    "Interval",
    "clustered_mean",
    "heldout_difference",
    "heldout_reward",
    "paired_difference",
    "perplexity",
    "read_texts",
]
