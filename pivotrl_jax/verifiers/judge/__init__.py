"""An LLM on an OpenAI-compatible endpoint as the judge of functional equivalence."""

from pivotrl_jax.verifiers.judge.client import EndpointSettings, JudgeClient, JudgeStats
from pivotrl_jax.verifiers.judge.verifier import Judge

__all__ = ["EndpointSettings", "Judge", "JudgeClient", "JudgeStats"]
