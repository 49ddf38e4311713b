"""Transformers as pure functions over parameter trees."""

from pivotrl_jax.models.config import (
    ExpertConfig,
    LinearScaling,
    LocalLayers,
    ModelConfig,
    RopeScaling,
)
from pivotrl_jax.models.params import LayerParams, Params, head, init, logical_axes, shapes
from pivotrl_jax.models.transformer import Remat, hidden, hidden_and_load, logits

__all__ = [
    "ExpertConfig",
    "LayerParams",
    "LinearScaling",
    "LocalLayers",
    "ModelConfig",
    "Params",
    "Remat",
    "RopeScaling",
    "head",
    "hidden",
    "hidden_and_load",
    "init",
    "logical_axes",
    "logits",
    "shapes",
]
