"""Calls, gradients and modes of execution, the same on every Keras backend."""

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="its subject is TensorFlow's alone")


def array(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


def call(layer, x, **kwargs):
    return array(layer(keras.ops.convert_to_tensor(x), **kwargs))


def gradients(layer, x, cotangent, **kwargs):
    """The gradients of sum(cotangent * layer(x)) to x and to each trainable weight, in their order."""
    if not layer.built:
        layer.build(x.shape)
    return _GRADIENTS[BACKEND](layer, keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(cotangent), kwargs)


def _tensorflow(layer, x, cotangent, kwargs):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x, **kwargs) * tf.cast(cotangent, layer.compute_dtype))
    sources = [x, *(w.value for w in layer.trainable_weights)]
    return [array(g) for g in tape.gradient(loss, sources)]


def _jax(layer, x, cotangent, kwargs):
    import jax

    def loss(x, trainable):
        y, _ = layer.stateless_call(trainable, [w.value for w in layer.non_trainable_variables], x, **kwargs)
        return (y * cotangent.astype(y.dtype)).sum()

    dx, dw = jax.grad(loss, argnums=(0, 1))(x, [w.value for w in layer.trainable_weights])
    return [array(g) for g in (dx, *dw)]


def _torch(layer, x, cotangent, kwargs):
    x = x.detach().clone().requires_grad_(True)
    layer.zero_grad()
    y = layer(x, **kwargs)
    (y * cotangent.to(y.dtype)).sum().backward()
    return [array(g) for g in (x.grad, *(w.value.grad for w in layer.trainable_weights))]


_GRADIENTS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
