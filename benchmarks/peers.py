"""The layers to time and who does the same elsewhere: Keras, TensorFlow's fused kernel, flax, torch."""

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_norm as kn

Step = Callable[[], Any]
EPSILON = 1e-3
GROUPS = 32
OURS = {
    "batch": kn.BatchNormalization,
    "group": lambda **k: kn.GroupNormalization(GROUPS, **k),
    "instance": kn.InstanceNormalization,
    "layer": kn.LayerNormalization,
}
KERAS = {
    "batch": keras.layers.BatchNormalization,
    "group": lambda **k: keras.layers.GroupNormalization(GROUPS, **k),
    "instance": lambda **k: keras.layers.GroupNormalization(-1, **k),
    "layer": keras.layers.LayerNormalization,
}


class Contender(NamedTuple):
    """The step forward, the step with the gradient to x, gamma and beta, and how its device tells a step's peak."""

    forward: Step
    both: Step
    peak: Callable[[Step], int] | None = None


def contenders(
    layer: str, x: np.ndarray, dy: np.ndarray, dtype: str, mode: str, compilation: kn.compilation.Mode
) -> tuple[Step, dict[str, Contender]]:
    """A copy of the tensor, and all who normalize it."""
    kn.compilation.set_mode(compilation)
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    layers = {"keras_norm": OURS[layer](dtype=policy), "keras.layers": KERAS[layer](dtype=policy)}
    for each in layers.values():
        each.build(x.shape)
    training = {"training": True} if layer == "batch" else {}
    of_backend = {"tensorflow": _tensorflow, "jax": _jax}[keras.backend.backend()]
    copy, found = of_backend(layer, layers, training, x, dy, dtype, mode)
    if importlib.util.find_spec("torch"):
        found |= _torch(layer, x, dy, dtype)
    return copy, found


def _tensorflow(
    name: str, layers: dict[str, Any], training: dict, x: np.ndarray, dy: np.ndarray, dtype: str, mode: str
) -> tuple[Step, dict[str, Contender]]:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # every contender is traced once, which it takes for retracing
    x, dy = tf.constant(x, dtype), tf.constant(dy, dtype)
    channels = x.shape[-1]
    gamma, beta = tf.ones([channels]), tf.zeros([channels])
    gpus = tf.config.list_logical_devices("GPU")

    def run(function: Step) -> Step:
        if mode != "eager":
            function = tf.function(function, jit_compile=mode == "xla", autograph=False)

        def step() -> None:
            function()
            if gpus:
                tf.test.experimental.sync_devices()

        return step

    def peak(step: Step) -> int:
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        tf.config.experimental.reset_memory_stats("GPU:0")
        step()
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before

    def contender(forward: Step, weights: list) -> Contender:
        def both() -> Any:
            with tf.GradientTape() as tape:
                tape.watch([x, gamma, beta])
                y = forward()
            return y, tape.gradient(y, [x, *weights], tf.reshape(dy, y.shape))

        return Contender(run(forward), run(both), peak if gpus else None)

    def fused() -> Any:
        flat = tf.reshape(x, [1, -1, 1, channels])
        return tf.compat.v1.nn.fused_batch_norm(flat, gamma, beta, epsilon=EPSILON, is_training=True)[0]

    found = {
        key: contender(lambda layer=layer: layer(x, **training), [layer.gamma.value, layer.beta.value])
        for key, layer in layers.items()
    }
    if name == "batch":
        found["FusedBatchNormV3"] = contender(fused, [gamma, beta])
    copy = tf.function(lambda: x + tf.ones([], dtype), autograph=False)
    return run(copy), found


def _jax(
    name: str, layers: dict[str, Any], training: dict, x: np.ndarray, dy: np.ndarray, dtype: str, mode: str
) -> tuple[Step, dict[str, Contender]]:
    import jax

    x, dy = jax.numpy.asarray(x, dtype), jax.numpy.asarray(dy, dtype)

    def contender(forward: Callable, weights: Any) -> Contender:
        def both(x: Any, weights: Any, dy: Any) -> Any:
            y, gradient = jax.vjp(forward, x, weights)
            return y, gradient(dy)

        compiled, compiled_both = jax.jit(forward), jax.jit(both)
        return Contender(
            lambda: jax.block_until_ready(compiled(x, weights)),
            lambda: jax.block_until_ready(compiled_both(x, weights, dy)),
        )

    def of_keras(layer: Any) -> Contender:
        fixed = [w.value for w in layer.non_trainable_variables]
        trainable = [w.value for w in layer.trainable_variables]
        return contender(lambda x, weights: layer.stateless_call(weights, fixed, x, **training)[0], trainable)

    found = {key: of_keras(layer) for key, layer in layers.items()}
    if importlib.util.find_spec("flax"):
        found["flax"] = contender(*_flax(name, x, dtype))
    copy = jax.jit(lambda x: x + 1)
    return lambda: jax.block_until_ready(copy(x)), found


def _flax(name: str, x: Any, dtype: str) -> tuple[Callable, Any]:
    import jax
    from flax import linen

    options = {"epsilon": EPSILON, "dtype": dtype}
    module = {
        "batch": linen.BatchNorm(use_running_average=False, **options),
        "group": linen.GroupNorm(GROUPS, **options),
        "instance": linen.InstanceNorm(**options),
        "layer": linen.LayerNorm(**options),
    }[name]
    variables = module.init(jax.random.key(0), x)
    fixed = {key: value for key, value in variables.items() if key != "params"}
    mutable = list(fixed)

    def forward(x: Any, weights: Any) -> Any:
        y = module.apply({"params": weights, **fixed}, x, mutable=mutable)
        return y[0]

    return forward, variables["params"]


def _torch(layer: str, x: np.ndarray, dy: np.ndarray, dtype: str) -> dict[str, Contender]:
    """Torch's native kernels, on contiguous channels first, on channels last, and compiled."""
    import torch
    from torch.nn import functional as F

    device = "cuda" if torch.cuda.is_available() else "cpu"
    channels = x.shape[-1]
    gamma = torch.ones(channels, device=device, requires_grad=True)
    beta = torch.zeros(channels, device=device, requires_grad=True)
    norm = {
        "batch": lambda t: F.batch_norm(t, None, None, gamma.to(t), beta.to(t), training=True, eps=EPSILON),
        "group": lambda t: F.group_norm(t, GROUPS, gamma.to(t), beta.to(t), eps=EPSILON),
        "instance": lambda t: F.instance_norm(t, weight=gamma.to(t), bias=beta.to(t), eps=EPSILON),
        "layer": lambda t: F.layer_norm(t, [channels], gamma.to(t), beta.to(t), eps=EPSILON),
    }[layer]

    def prepared(array: np.ndarray, **layout: Any) -> torch.Tensor:
        t = torch.tensor(array, device=device).to(getattr(torch, dtype))
        return (t if layer == "layer" else t.movedim(-1, 1)).contiguous(**layout)

    def synchronized(step: Step) -> Step:
        def run() -> None:
            step()
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    def peak(step: Step) -> int:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before

    def contender(norm: Callable, **layout: Any) -> Contender:
        t, g = prepared(x, **layout).requires_grad_(True), prepared(dy, **layout)
        return Contender(
            synchronized(lambda: norm(t.detach())),
            synchronized(lambda: torch.autograd.grad(norm(t), [t, gamma, beta], g)),
            peak if device == "cuda" else None,
        )

    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    found = {"torch": contender(norm)}
    if last and layer != "layer":
        found["torch, channels_last"] = contender(norm, memory_format=last)
    if shutil.which("g++"):  # torch compiles through it
        layout = {"memory_format": last} if last and layer != "layer" else {}
        found["torch, compiled"] = contender(torch.compile(norm), **layout)
    return found
