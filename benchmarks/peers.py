"""The layers to time and who does the same elsewhere: Keras, TensorFlow's fused kernel, torch."""

import importlib.util
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import keras_norm as kn

LAYERS = ("batch", "group", "instance", "layer")
Step = Callable[[], Any]


def contenders(
    layer: str, shape: tuple[int, ...], dtype: str, mode: str, x: tf.Tensor, dy: tf.Tensor
) -> dict[str, tuple[Step, Step]]:
    """For each contender the forward step, and the step with the gradient to x, gamma and beta."""
    groups = min(32, shape[-1])
    ours = {
        "batch": kn.BatchNormalization,
        "group": lambda **k: kn.GroupNormalization(groups, **k),
        "instance": kn.InstanceNormalization,
        "layer": kn.LayerNormalization,
    }
    theirs = {
        "batch": keras.layers.BatchNormalization,
        "group": lambda **k: keras.layers.GroupNormalization(groups, **k),
        "instance": lambda **k: keras.layers.GroupNormalization(-1, **k),
        "layer": keras.layers.LayerNormalization,
    }
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    found = {
        "keras_norm": _of_layer(ours[layer](dtype=policy), layer, x, dy, mode),
        "keras.layers": _of_layer(theirs[layer](dtype=policy), layer, x, dy, mode),
    }
    if layer == "batch":
        found["FusedBatchNormV3"] = _of_kernel(x, dy, mode)
    if importlib.util.find_spec("torch") and mode == "eager":
        found |= _of_torch(layer, groups, x, dy)
    return found


def _run(function: Step, mode: str) -> Step:
    """The function in that mode of TensorFlow."""
    return function if mode == "eager" else tf.function(function, jit_compile=mode == "xla", autograph=False)


def _of_layer(layer: Any, name: str, x: tf.Tensor, dy: tf.Tensor, mode: str) -> tuple[Step, Step]:
    """The steps of a Keras layer in training."""
    layer.build(x.shape)
    training = {"training": True} if name == "batch" else {}

    def both() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, **training)
        return y, tape.gradient(y, [x, layer.gamma.value, layer.beta.value], dy)

    return _run(lambda: layer(x, **training), mode), _run(both, mode)


def _of_kernel(x: tf.Tensor, dy: tf.Tensor, mode: str) -> tuple[Step, Step]:
    """The steps of TensorFlow's fused batch normalization."""
    channels = x.shape[-1]
    gamma, beta = tf.ones([channels]), tf.zeros([channels])

    def forward() -> Any:
        flat = tf.reshape(x, [1, -1, 1, channels])
        return tf.compat.v1.nn.fused_batch_norm(flat, gamma, beta, epsilon=1e-3, is_training=True)[0]

    def both() -> Any:
        with tf.GradientTape() as tape:
            tape.watch([x, gamma, beta])
            y = forward()
        return y, tape.gradient(y, [x, gamma, beta], tf.reshape(dy, y.shape))

    return _run(forward, mode), _run(both, mode)


def _of_torch(layer: str, groups: int, x: tf.Tensor, dy: tf.Tensor) -> dict[str, tuple[Step, Step]]:
    """The steps of torch's native kernels, on contiguous channels first and, for images, on channels last."""
    import torch
    from torch.nn import functional as F

    channels = x.shape[-1]
    gamma, beta = torch.ones(channels, requires_grad=True), torch.zeros(channels, requires_grad=True)
    norm = {
        "batch": lambda t: F.batch_norm(t, None, None, gamma, beta, training=True, eps=1e-3),
        "group": lambda t: F.group_norm(t, groups, gamma, beta, eps=1e-3),
        "instance": lambda t: F.instance_norm(t, weight=gamma, bias=beta, eps=1e-3),
        "layer": lambda t: F.layer_norm(t, [channels], gamma, beta, eps=1e-3),
    }[layer]

    def prepared(tensor: tf.Tensor) -> torch.Tensor:
        t = torch.tensor(tf.cast(tensor, tf.float32).numpy()).to(getattr(torch, tensor.dtype.name))
        return t if layer == "layer" else t.movedim(-1, 1)

    def steps(layout: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Step, Step]:
        t, g = layout(prepared(x)).requires_grad_(True), layout(prepared(dy))
        return (lambda: norm(t.detach())), (lambda: torch.autograd.grad(norm(t), [t, gamma, beta], g))

    found = {"torch": steps(torch.Tensor.contiguous)}
    if layer != "layer" and len(x.shape) == 4:
        found["torch, channels_last"] = steps(lambda t: t.contiguous(memory_format=torch.channels_last))
    return found
