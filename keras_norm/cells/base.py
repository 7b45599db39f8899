"""What all cells share: the arguments, gains and biases of their normalizations, dropout, the config."""

import inspect
from typing import Any

import keras
from keras import constraints, initializers, regularizers

from keras_norm import arguments
from keras_norm.layers.signatures import describe
from keras_norm.tensors import Tensor, at_least_float32, cast

_OF_EVERY_LAYER = frozenset(inspect.signature(keras.layers.Layer.__init__).parameters)


class LayerNormCell(keras.layers.Layer):
    """Abstract base of the layer-normalized cells. A subclass is a cell of Keras too, whose `call` it replaces.

    The arguments, weights and states of the Keras cell come first, under their names and in their order. A cell runs
    wherever that one does: in `keras.layers.RNN` and `Bidirectional`, stacked, stateful, masked, unrolled.

    Each normalization is that of `functional.layer_norm` over the last axis. Its moments, gamma and beta are float32
    or wider under every dtype policy.

    Args:
        units: size of the output and of each state; positive.
        dropout, recurrent_dropout: the fraction of the inputs and of the former output to drop in training. All gates
            and all time steps share one mask.
        epsilon: added to the variance, as in `sqrt(variance + epsilon)`; positive.
        beta_initializer, gamma_initializer: zeros and ones, or what Keras takes for an initializer.
        beta_regularizer, gamma_regularizer: none, or what Keras takes for a regularizer.
        beta_constraint, gamma_constraint: none, or what Keras takes for a constraint.
        **kwargs: those of every Keras layer: `name`, `dtype`, `trainable`.

    Raises:
        TypeError, ValueError: when constructed, for an argument of the wrong type or value.
    """

    _sets_itself: frozenset[str] = frozenset()
    """The arguments of its bases that a cell does not take."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lists all arguments of a cell, those of Keras' included, in its signature and docstring."""
        super().__init_subclass__(**kwargs)
        describe(cls, keras.layers.Layer, _OF_EVERY_LAYER | cls._sets_itself)

    def __init__(
        self,
        units: int,
        *args: Any,
        epsilon: float = 1e-3,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        owner = type(self).__name__
        units = arguments.positive_integer(owner, "units", units)
        given = inspect.signature(super().__init__).bind(units, *args, **kwargs).arguments
        for name in ("dropout", "recurrent_dropout"):
            arguments.fraction(owner, name, given.get(name, 0.0))  # which Keras clips
        super().__init__(units, *args, **kwargs)
        self.dropout_mask_count = None  # one mask for all gates, which share a product
        self.epsilon = arguments.positive(owner, "epsilon", epsilon)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)

    def _add_vector(self, name: str, size: int) -> keras.Variable:
        """A gamma or beta, as the end of its name says, in float32 or wider, which autocasting leaves alone."""
        kind = name.rpartition("_")[2]
        keywords = {role: getattr(self, f"{kind}_{role}") for role in ("initializer", "regularizer", "constraint")}
        dtype = at_least_float32(self.variable_dtype)
        return self.add_weight(name=name, shape=(size,), dtype=dtype, autocast=False, **keywords)

    def _after_dropout(self, inputs: Tensor, state: Tensor, training: bool | None) -> tuple[Tensor, Tensor]:
        """The inputs, integers too, and the former output; in training without what their masks drop."""
        # Products of these by @, as `ops.matmul` gives float32 for float64 on torch.
        inputs = cast(inputs, self.compute_dtype)
        if training and self.dropout:
            inputs = inputs * self.get_dropout_mask(inputs)
        if training and self.recurrent_dropout:
            state = state * self.get_recurrent_dropout_mask(state)
        return inputs, state

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "epsilon": self.epsilon,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "beta_regularizer": regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": constraints.serialize(self.beta_constraint),
            "gamma_constraint": constraints.serialize(self.gamma_constraint),
        }
        return {name: value for name, value in config.items() if name not in self._sets_itself}
