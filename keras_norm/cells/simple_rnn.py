"""Layer-normalized simple RNN: normalizes the sum of both matrix products."""

from typing import Any

import keras

from keras_norm.cells.base import LayerNormCell
from keras_norm.functional import layer_norm
from keras_norm.tensors import Tensor, cast


@keras.saving.register_keras_serializable("keras_norm")
class LayerNormSimpleRNNCell(LayerNormCell, keras.layers.SimpleRNNCell):
    r"""A simple recurrent cell that normalizes the sum of both matrix products.

    With kernel W, recurrent kernel U and bias b of `keras.layers.SimpleRNNCell`, a time step computes

        S_i = {k : k_N = i_N}
        z = x W + h U
        h_i = tanh(gamma_c (z_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + b_c)

    with gamma of shape `(units,)`. Keras' bias b is the beta of the normalization. The formula is that of the paper and
    of TensorFlow Addons, whose weights `set_weights` accepts and whose default epsilon is 1e-5. Apart from dropout,
    training and inference are the same.

    Args:
        units, activation, ...: see `keras.layers.SimpleRNNCell`.
        epsilon, gamma_initializer, ...: see `LayerNormCell`.

    Shapes: inputs `(N, D)` and state `(N, units)` to outputs and state `(N, units)`; in `keras.layers.RNN`,
        inputs `(N, T, D)`.

    Raises:
        TypeError, ValueError: when constructed, if an argument has a wrong type or value.

    Example:
        >>> layer = keras.layers.RNN(LayerNormSimpleRNNCell(4))
        >>> y = layer(np.ones((2, 10, 8)))
        >>> [weight.name for weight in layer.weights]
        ['kernel', 'recurrent_kernel', 'bias', 'gamma']

    Reference: Ba et al., Layer Normalization, 2016, https://arxiv.org/abs/1607.06450, eq. 4.
    """

    _sets_itself = frozenset({"beta_initializer", "beta_regularizer", "beta_constraint"})

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.gamma = self._add_affine("gamma", (self.units,))

    def call(self, inputs: Tensor, states: Any, training: bool | None = False) -> tuple[Tensor, Any]:
        former = states[0] if isinstance(states, (list, tuple)) else states
        x, h = self._after_dropout(inputs, former, training)
        z = x @ self.kernel + h @ self.recurrent_kernel
        # Keras' tanh gives float32 for float64 on JAX, where a state must keep its dtype.
        h = cast(self.activation(layer_norm(z, self.gamma, self.bias, self.epsilon)), z.dtype)
        return h, [h] if isinstance(states, (list, tuple)) else h
