"""JAX: each step compiled as a whole. The layers of flax.nnx represent the backend's own."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.backends import EPSILON, GROUPS, MOMENTUM, Step


def devices() -> list[str]:
    """The names of the accelerators."""
    return [device.device_kind for device in jax.devices() if device.platform != "cpu"]


def tensor(array: np.ndarray, dtype: str) -> jax.Array:
    """The array on the device."""
    return jax.numpy.asarray(array, dtype)


def wait(outputs: Any) -> None:
    """Waits for the outputs."""
    jax.block_until_ready(outputs)


def peak_memory(step: Step) -> int | None:
    """The bytes that XLA allocates for a compiled step without its arguments; None for other steps."""
    if not isinstance(step, functools.partial):
        return None
    allotted = step.func.lower(*step.args).compile().memory_analysis()
    return allotted.temp_size_in_bytes + allotted.output_size_in_bytes - allotted.alias_size_in_bytes


def steps(layer: Any, x: jax.Array, dy: jax.Array, training: dict[str, bool], mode: str) -> tuple[Step, Step]:
    """The steps of a Keras layer: forward, and forward + backward."""
    weights, state = ([w.value for w in ws] for ws in (layer.trainable_variables, layer.non_trainable_variables))
    return _steps(lambda *args: layer.stateless_call(*args, **training), weights, state, x, dy)


def native(layer: str, axis: int, x: jax.Array, dy: jax.Array, mode: str) -> dict[str, tuple[Step, Step]]:
    """The same steps of the flax layer, if flax is installed."""
    if not importlib.util.find_spec("flax"):
        return {}
    from flax import nnx

    options: dict[str, Any] = {"epsilon": EPSILON, "dtype": x.dtype, "rngs": nnx.Rngs(0)}
    module: Any = {
        "batch": lambda c: nnx.BatchNorm(c, momentum=MOMENTUM, **options),
        "group": lambda c: nnx.GroupNorm(c, GROUPS, **options),
        "instance": lambda c: nnx.InstanceNorm(c, **options),
        "layer": lambda c: nnx.LayerNorm(c, **options),
    }[layer](x.shape[-1])
    definition, start = nnx.split(module)

    def forward(weights: list[jax.Array], state: list[jax.Array], x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        module: Any = nnx.merge(definition, start)
        module.scale, module.bias = (nnx.Param(w) for w in weights)
        if not state:
            return module(x), []
        module.mean, module.var = (nnx.BatchStat(s) for s in state)
        return module(x), [module.mean[...], module.var[...]]

    state = [module.mean[...], module.var[...]] if layer == "batch" else []
    return {"flax.nnx": _steps(forward, [module.scale[...], module.bias[...]], state, x, dy)}


def _steps(
    forward: Callable, weights: list[jax.Array], state: list[jax.Array], x: jax.Array, dy: jax.Array
) -> tuple[Step, Step]:
    """`forward` maps weights, state and x to y and the new state. The step includes the new state."""

    def both(weights: list[jax.Array], state: list[jax.Array], x: jax.Array, dy: jax.Array) -> Any:
        y, gradient, state = jax.vjp(lambda x, weights: forward(weights, state, x), x, weights, has_aux=True)
        to_x, to_weights = gradient(dy)
        return [y, to_x, *to_weights, *state]

    compiled, compiled_both = jax.jit(lambda *args: jax.tree.leaves(forward(*args))), jax.jit(both)
    return functools.partial(compiled, weights, state, x), functools.partial(compiled_both, weights, state, x, dy)
