"""Layers that take a second input, as layers of one: the second depends on the place of a sample in the batch alone."""

import keras
import numpy as np
from keras import ops

KINDS = 3
"""Samples 0, 3, 6, ... are of one kind, samples 1, 4, 7, ... of the next, and so on."""


def gamma_and_beta(channels):
    """gamma and beta of each kind of sample: (KINDS, C), exact in float32."""
    rng = np.random.default_rng(7)
    return [rng.uniform(*ends, (KINDS, channels)).astype("float32").astype("float64") for ends in ((0.5, 2), (-1, 1))]


def kinds_of(x):
    """The kind of each sample, counted without the number of samples: an exported graph then asks for no shape."""
    first = x[(slice(None), *[0] * (len(x.shape) - 1))]
    ones = ops.cast(ops.logical_or(ops.equal(first, first), ops.not_equal(first, first)), "int32")
    return (ops.cumsum(ones) - 1) % KINDS


def one_hot_kinds_of(x):
    """The same as vectors, in float32 or wider: (N, KINDS)."""
    wide = "float64" if keras.backend.standardize_dtype(x.dtype) == "float64" else "float32"
    return ops.one_hot(kinds_of(x), KINDS, dtype=wide)


def map_of_kinds_of(x, axis):
    """The same as maps: these vectors at each position, along `axis`."""
    rank, vectors = len(x.shape), one_hot_kinds_of(x)
    first = x[tuple(slice(1) if a == axis else slice(None) for a in range(rank))]
    ones = ops.cast(ops.logical_or(ops.equal(first, first), ops.not_equal(first, first)), vectors.dtype)
    return ones * ops.reshape(vectors, (-1, *[KINDS if a == axis else 1 for a in range(1, rank)]))


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
    """A `ConditionalNormalization` whose condition is the kind of each sample: as classes, a vector or a map."""

    def __init__(self, layer, condition="classes", **kwargs):
        super().__init__(layer, **kwargs)
        self.condition = condition

    def second_shape(self, input_shape):
        axis = self.layer.axis % len(input_shape)
        sizes = {"classes": [], "vector": [KINDS], "map": [*input_shape[1:axis], KINDS, *input_shape[axis + 1 :]]}
        return (input_shape[0], *sizes[self.condition])

    def call(self, inputs, training=None, mask=None):
        if self.condition == "map":
            condition = map_of_kinds_of(inputs, self.layer.axis % len(inputs.shape))
        else:
            condition = {"classes": kinds_of, "vector": one_hot_kinds_of}[self.condition](inputs)
        return self.layer(inputs, condition, training=training, mask=mask)

    def get_config(self):
        return {**super().get_config(), "condition": self.condition}


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
        chosen = ops.expand_dims(one_hot_kinds_of(inputs), -1)
        style = ops.sum(chosen * ops.convert_to_tensor(style.reshape(KINDS, -1), chosen.dtype), 1)
        style = ops.reshape(style, (-1, *[2] * (rank > 2), *[1] * (rank - 3), inputs.shape[axis]))
        return self.layer(inputs, ops.moveaxis(style, rank - 1, axis), content_mask=mask)
