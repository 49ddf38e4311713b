"""Sampling actions from the policy."""

from pivotrl_jax.sampling.sampler import sample
from pivotrl_jax.sampling.session import Session
from pivotrl_jax.sampling.tokens import SamplingSettings, draw
from pivotrl_jax.sampling.types import DeviceCalls, EngineSettings, Request, Sample

__all__ = [
    "DeviceCalls",
    "EngineSettings",
    "Request",
    "Sample",
    "SamplingSettings",
    "Session",
    "draw",
    "sample",
]
