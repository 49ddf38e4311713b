"""Sampling actions from the policy."""

from pivotrl_jax.sampling.sampler import EngineSettings, Request, Sample, sample
from pivotrl_jax.sampling.tokens import SamplingSettings, draw

__all__ = ["EngineSettings", "Request", "Sample", "SamplingSettings", "draw", "sample"]
