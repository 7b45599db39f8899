"""Layers that take a second input, as layers of one: the second depends on the place of a sample in the batch alone."""

import keras
import numpy as np
from keras import ops

KINDS = 3
"""Samples 0, 3, 6, ... are of one kind, samples 1, 4, 7, ... of the next, and so on."""


def gamma_and_beta(channels):
    """gamma and beta of each kind of sample: (KINDS, C)."""
    rng = np.random.default_rng(7)
    return rng.uniform(0.5, 2.0, (KINDS, channels)), rng.uniform(-1.0, 1.0, (KINDS, channels))


def kinds_of(x):
    """The kind of each sample, counted without the number of samples: an exported graph then asks for no shape."""
    first = x[(slice(None), *[0] * (len(x.shape) - 1))]
    ones = ops.cast(ops.logical_or(ops.equal(first, first), ops.not_equal(first, first)), "int32")
    return (ops.cumsum(ones) - 1) % KINDS


class WithSecondInput(keras.layers.Layer):
    """Abstract: a layer of two inputs, called with one."""

    def __init__(self, layer, **kwargs):
        super().__init__(autocast=False, dtype=layer.dtype_policy, **kwargs)
        self.layer, self.supports_masking = layer, True

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape, self.second_shape(input_shape))

    def rematerialized_call(self, layer_call, *args, **kwargs):
        return layer_call  # the layer inside is a part of the scope too

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = {name: value for name, value in super().get_config().items() if name != "dtype"}
        return {**config, "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})


@keras.saving.register_keras_serializable("tests")
class WithCondition(WithSecondInput):
    """A `ConditionalNormalization` whose condition is the kind of each sample."""

    def second_shape(self, input_shape):
        return input_shape[:1]

    def call(self, inputs, training=None, mask=None):
        return self.layer(inputs, kinds_of(inputs), training=training, mask=mask)


@keras.saving.register_keras_serializable("tests")
class WithStyle(WithSecondInput):
    """An `AdaptiveInstanceNormalization` whose style has two positions, with the statistics of `gamma_and_beta`."""

    def second_shape(self, input_shape):
        return input_shape

    def call(self, inputs, training=None, mask=None):
        rank, axis = len(inputs.shape), self.layer.axis % len(inputs.shape)
        gamma, beta = gamma_and_beta(inputs.shape[axis])
        deviation = np.sqrt(gamma**2 - self.layer.epsilon)
        style = np.stack([beta + deviation, beta - deviation], 1) if rank > 2 else beta
        wide = "float64" if keras.backend.standardize_dtype(inputs.dtype) == "float64" else "float32"
        chosen = ops.expand_dims(ops.one_hot(kinds_of(inputs), KINDS, dtype=wide), -1)
        style = ops.sum(chosen * ops.convert_to_tensor(style.reshape(KINDS, -1), wide), 1)
        style = ops.reshape(style, (-1, *[2] * (rank > 2), *[1] * (rank - 3), inputs.shape[axis]))
        return self.layer(inputs, ops.moveaxis(style, rank - 1, axis), content_mask=mask)
