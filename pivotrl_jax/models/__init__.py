"""Transformers as pure functions over parameter trees."""

from pivotrl_jax.models.config import ModelConfig, RopeScaling
from pivotrl_jax.models.params import LayerParams, Params, head, init, logical_axes, shapes
from pivotrl_jax.models.transformer import Remat, hidden, logits

__all__ = [
    "LayerParams",
    "ModelConfig",
    "Params",
    "Remat",
    "RopeScaling",
    "head",
    "hidden",
    "init",
    "logical_axes",
    "logits",
    "shapes",
]
