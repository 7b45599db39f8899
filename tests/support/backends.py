"""Calls, gradients and modes of execution, the same on every Keras backend."""

import inspect

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()
tensorflow_only = pytest.mark.skipif(BACKEND != "tensorflow", reason="its subject is TensorFlow's alone")
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="its subject is JAX' alone")
torch_only = pytest.mark.skipif(BACKEND != "torch", reason="its subject is torch's alone")

keras_with_renorm = pytest.mark.skipif(
    "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters,
    reason="keras.layers.BatchNormalization has no renorm in this version",
)


def array(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


def call(layer, x, **kwargs):
    return array(layer(keras.ops.convert_to_tensor(x), **kwargs))


def gradients(layer, x, cotangent, compiled=False, **kwargs):
    """The gradients of sum(cotangent * layer(x)) to x, unless x is of integers, and to each trainable weight."""
    if not layer.built:
        layer.build(x.shape)
    x, cotangent = keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(cotangent)
    return [array(g) for g in _GRADIENTS[BACKEND](layer, x, cotangent, compiled, kwargs)]


def _tensorflow(layer, x, cotangent, compiled, kwargs):
    import tensorflow as tf

    def found(x):
        sources = [x] if x.dtype.is_floating else []
        with tf.GradientTape() as tape:
            tape.watch(sources)
            y = layer(x, **kwargs)
            loss = tf.reduce_sum(y * tf.cast(cotangent, y.dtype))
        return tape.gradient(loss, [*sources, *(w.value for w in layer.trainable_weights)])

    return (tf.function(found) if compiled else found)(x)


def _jax(layer, x, cotangent, compiled, kwargs):
    import jax

    def loss(trainable, x):
        y, _ = layer.stateless_call(trainable, [w.value for w in layer.non_trainable_variables], x, **kwargs)
        return (y * cotangent.astype(y.dtype)).sum()

    found = jax.grad(loss, argnums=(0, 1) if keras.backend.is_float_dtype(x.dtype) else (0,))
    to_weights, *to_x = (jax.jit(found) if compiled else found)([w.value for w in layer.trainable_weights], x)
    return [*to_x, *to_weights]


def _torch(layer, x, cotangent, compiled, kwargs):
    x = x.detach().clone().requires_grad_(x.is_floating_point())
    layer.zero_grad()
    y = layer(x, **kwargs)
    (y * cotangent.to(y.dtype)).sum().backward()
    return [*([x.grad] if x.requires_grad else []), *(w.value.grad for w in layer.trainable_weights)]


_GRADIENTS = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
