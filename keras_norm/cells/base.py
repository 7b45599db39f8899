"""The base class of the cells: arguments, gamma and beta, dropout, config."""

import inspect
from typing import Any

import keras

from keras_norm import arguments
from keras_norm.layers.affine import Affine
from keras_norm.layers.signatures import describe
from keras_norm.tensors import Tensor, cast

_OF_EVERY_LAYER = frozenset(inspect.signature(keras.layers.Layer.__init__).parameters)


class LayerNormCell(Affine):
    """Abstract base class of layer-normalized cells. A subclass also inherits a Keras cell and overrides its `call`.

    Arguments, weights and states of the Keras cell come first, with the same names and in the same order. These cells
    work like Keras' cells in `keras.layers.RNN` and `Bidirectional`: stacked, stateful, masked or unrolled. Export has
    the same limits: LiteRT without TensorFlow's operations and `torch.export` need unrolled layers.

    Each normalization is `functional.layer_norm` over the last axis. Its moments, gamma and beta are float32 or wider
    under every dtype policy.

    Args:
        units: the size of the output and of each state.
        dropout, recurrent_dropout: the fraction of the inputs and of the previous output to drop in training. All gates
            and all time steps share one mask.
        epsilon: a positive number, added to the variance as in `sqrt(variance + epsilon)`.
        beta_initializer, gamma_initializer: Keras initializers; zeros and ones by default.
        beta_regularizer, gamma_regularizer: Keras regularizers; none by default.
        beta_constraint, gamma_constraint: Keras constraints; none by default.
        **kwargs: `name`, `dtype` and `trainable`, as in every Keras layer.

    Raises:
        TypeError, ValueError: when constructed, if an argument has a wrong type or value.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lists all arguments, including those of the Keras cell, in signature and docstring."""
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
            arguments.fraction(owner, name, given.get(name, 0.0))  # Keras would clip it silently
        super().__init__(units, *args, **kwargs)
        self.dropout_mask_count = None  # one mask for all gates, because they share one matrix product
        self.epsilon = arguments.positive(owner, "epsilon", epsilon)
        of_beta = (beta_initializer, beta_regularizer, beta_constraint)
        self._set_affine(*of_beta, gamma_initializer, gamma_regularizer, gamma_constraint)

    def _add_gamma_and_beta(self, of: str, size: int) -> tuple[keras.Variable, keras.Variable]:
        """Adds gamma and beta for a normalization of `size` columns."""
        return self._add_affine(f"{of}_gamma", (size,)), self._add_affine(f"{of}_beta", (size,))

    def _after_dropout(self, inputs: Tensor, state: Tensor, training: bool | None) -> tuple[Tensor, Tensor]:
        """Casts the inputs, and in training applies dropout to the inputs and the previous output."""
        # The caller multiplies with @, because `ops.matmul` returns float32 for float64 on torch.
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
            **self._affine_config(),
        }
        return {name: value for name, value in config.items() if name not in self._sets_itself}
