"""What all cells share: the arguments, gamma and beta of their normalizations, dropout, the config."""

import inspect
from typing import Any

import keras

from keras_norm import arguments
from keras_norm.layers.affine import Affine
from keras_norm.layers.signatures import describe
from keras_norm.tensors import Tensor, cast

_OF_EVERY_LAYER = frozenset(inspect.signature(keras.layers.Layer.__init__).parameters)


class LayerNormCell(Affine):
    """Abstract base of the layer-normalized cells. A subclass is a cell of Keras too, whose `call` it replaces.

    The arguments, weights and states of the Keras cell come first, under their names and in their order. A cell runs
    wherever that one does: in `keras.layers.RNN` and `Bidirectional`, stacked, stateful, masked, unrolled. Its export
    goes as far: LiteRT without TensorFlow's operations and `torch.export` take unrolled layers only.

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
        of_beta = (beta_initializer, beta_regularizer, beta_constraint)
        self._set_affine(*of_beta, gamma_initializer, gamma_regularizer, gamma_constraint)

    def _add_gamma_and_beta(self, of: str, size: int) -> tuple[keras.Variable, keras.Variable]:
        """The two weights of a normalization of so many columns."""
        return self._add_affine(f"{of}_gamma", (size,)), self._add_affine(f"{of}_beta", (size,))

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
            **self._affine_config(),
        }
        return {name: value for name, value in config.items() if name not in self._sets_itself}
