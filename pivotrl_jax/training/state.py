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
    base is no part of the state.

    `master` is where updates add up, in float32, if `params` are of less precision: they are it,
    rounded. A step of 1e-6 is lost in bfloat16 on every weight that is larger than some 2e-4. The
    moments are float32 as well.
    """

    step: Int[Any, ""]
    params: Any
    opt_state: Any
    master: Any = None


def state_shardings(
    optimizer: optax.GradientTransformation,
    cfg: ModelConfig,
    mesh: Mesh,
    lora: LoraSettings = NO_LORA,
) -> TrainState:
    """Moments and master lie like their parameters; counters are replicated."""
    abstract = trained_shapes(cfg, lora)
    params = shardings(abstract, trained_axes(cfg, lora), mesh)
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, abstract),
        params,
        transform_non_params=lambda _: replicated(mesh),
    )
    return TrainState(replicated(mesh), params, opt_state, _master(abstract, params))


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
    whole = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    return TrainState(jnp.int32(0), params, optimizer.init(whole), _master(params, whole))


def _master(params: Trained, whole: Any) -> Any:
    """`whole`, or None where `params` need no copy of more precision."""
    return None if all(x.dtype == jnp.float32 for x in jax.tree.leaves(params)) else whole


def apply_gradients(
    state: TrainState, grads: Trained, optimizer: optax.GradientTransformation
) -> TrainState:
    """One step, with gradients in float32."""
    with jax.named_scope("optimizer"):
        whole = state.params if state.master is None else state.master
        updates, opt_state = optimizer.update(grads, state.opt_state, whole)
        whole = optax.apply_updates(whole, updates)
        params = jax.tree.map(lambda x, new: new.astype(x.dtype), state.params, whole)
    return TrainState(state.step + 1, params, opt_state, _master(state.params, whole))
