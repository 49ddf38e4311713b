"""Sampling actions from the policy."""

from pivotrl_jax.sampling.sampler import Samples, sample, sample_keys
from pivotrl_jax.sampling.tokens import SamplingSettings, draw

__all__ = ["Samples", "SamplingSettings", "draw", "sample", "sample_keys"]
