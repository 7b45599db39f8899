"""Layer-normalized GRU: normalizes the products of input and previous output, gates and candidate separately."""

from typing import Any

import keras
from keras import ops

from keras_norm.cells.base import LayerNormCell
from keras_norm.functional import layer_norm
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class LayerNormGRUCell(LayerNormCell, keras.layers.GRUCell):
    r"""A GRU cell that normalizes both matrix products, separately for gates and candidate.

    With kernel W, recurrent kernel U and biases b, b' of `keras.layers.GRUCell`, a time step computes

        x_z, x_r, x_h = split(LN(x W) + b)
        h_z, h_r, h_h = split(LN(h U) + b')
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        h = z h + (1 - z) tanh(x_h + r h_h)

    The first LN has the weights `kernel_gamma` and `kernel_beta`, the second has `recurrent_gamma` and
    `recurrent_beta`, all of shape `(3 units,)`. The two gates (columns c < 2 units) share one mean and one variance.
    The columns of the candidate share another:

        S_i = {k : k_N = i_N, (k_C < 2 units) = (i_C < 2 units)}
        LN(z)_i = gamma_c (z_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta_c

    Apart from dropout, training and inference are the same. The cell is that of the paper, with two differences that
    come from Keras: it has biases (which beta makes redundant, see `use_bias=False`), and z and 1 - z are exchanged.

    Args:
        units, activation, ...: see `keras.layers.GRUCell`.
        reset_after: must be True. The reset gate multiplies the normalized product of the previous output.
        epsilon, ...: see `LayerNormCell`.

    Shapes: inputs `(N, D)` and state `(N, units)` to outputs and state `(N, units)`; in `keras.layers.RNN`,
        inputs `(N, T, D)`.

    Raises:
        TypeError, ValueError: when constructed, if an argument has a wrong type or value, or `reset_after` is False.

    Example:
        >>> layer = keras.layers.Bidirectional(keras.layers.RNN(LayerNormGRUCell(4)))
        >>> y = layer(np.ones((2, 10, 8)))
        >>> tuple(y.shape)
        (2, 8)

    Reference: Ba et al., Layer Normalization, 2016, https://arxiv.org/abs/1607.06450, supplement.
    """

    def __init__(self, units: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(units, *args, **kwargs)
        if not self.reset_after:
            raise ValueError(
                f"{type(self).__name__}: reset_after must be True. Received: reset_after={self.reset_after!r} "
                "(the reset gate multiplies the normalized product of the state, as in the paper)."
            )

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.kernel_gamma, self.kernel_beta = self._add_gamma_and_beta("kernel", 3 * self.units)
        self.recurrent_gamma, self.recurrent_beta = self._add_gamma_and_beta("recurrent", 3 * self.units)

    def call(self, inputs: Tensor, states: Any, training: bool | None = False) -> tuple[Tensor, Any]:
        former = states[0] if isinstance(states, (list, tuple)) else states
        x, h = self._after_dropout(inputs, former, training)
        x_beta, h_beta = self.kernel_beta, self.recurrent_beta
        if self.use_bias:
            x_beta, h_beta = x_beta + self.bias[0], h_beta + self.bias[1]
        x_gates, x_h = self._normalize(x @ self.kernel, self.kernel_gamma, x_beta)
        h_gates, h_h = self._normalize(h @ self.recurrent_kernel, self.recurrent_gamma, h_beta)
        z, r = ops.split(self.recurrent_activation(x_gates + h_gates), 2, axis=-1)
        h = z * former + (1 - z) * self.activation(x_h + r * h_h)
        return h, [h] if isinstance(states, (list, tuple)) else h

    def _normalize(self, product: Tensor, gamma: Tensor, beta: Tensor) -> list[Tensor]:
        """The normalized columns of the gates, and those of the candidate."""
        parts = slice(None, 2 * self.units), slice(2 * self.units, None)
        return [layer_norm(product[:, part], gamma[part], beta[part], self.epsilon) for part in parts]
