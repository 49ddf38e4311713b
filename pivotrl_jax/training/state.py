"""What training changes and its optimiser's moments, and how they lie on the mesh."""

from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Int

from pivotrl_jax.models import ModelConfig, shapes
from pivotrl_jax.models.lora import NO_LORA, LoraSettings, Trained, trained_axes, trained_shapes
from pivotrl_jax.parallel import placed, replicated, shardings


@flax.struct.dataclass
class TrainState:
    """`params` are what training changes (`Trained`): all of a policy, or adapters, whose frozen
    base is no part of the state."""

    step: Int[Any, ""]
    params: Any
    opt_state: Any


def state_shardings(
    optimizer: optax.GradientTransformation,
    cfg: ModelConfig,
    mesh: Mesh,
    lora: LoraSettings = NO_LORA,
) -> TrainState:
    """Moments lie like their parameters; counters are replicated."""
    abstract = trained_shapes(cfg, lora)
    params = shardings(abstract, trained_axes(cfg, lora), mesh)
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, abstract),
        params,
        transform_non_params=lambda _: replicated(mesh),
    )
    return TrainState(replicated(mesh), params, opt_state)


def new_state(
    params: Trained, optimizer: optax.GradientTransformation, layout: TrainState
) -> TrainState:
    """Step 0, with optimiser moments born in `layout`. Takes over `params` (they are donated)."""
    make = jax.jit(partial(_step_0, optimizer), donate_argnums=0, out_shardings=layout)
    return make(params)


def abstract_state(
    cfg: ModelConfig, optimizer: optax.GradientTransformation, layout: TrainState
) -> TrainState:
    """The shapes and shardings of a `new_state` of all parameters."""
    return placed(jax.eval_shape(partial(_step_0, optimizer), shapes(cfg)), layout)


def _step_0(optimizer: optax.GradientTransformation, params: Trained) -> TrainState:
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def apply_gradients(
    state: TrainState, grads: Trained, optimizer: optax.GradientTransformation
) -> TrainState:
    with jax.named_scope("optimizer"):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state)
