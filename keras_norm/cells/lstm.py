"""Layer-normalized LSTM: normalizes the products of input and previous output, and the cell state."""

import keras
from keras import ops

from keras_norm.cells.base import LayerNormCell
from keras_norm.functional import layer_norm
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class LayerNormLSTMCell(LayerNormCell, keras.layers.LSTMCell):
    r"""An LSTM cell that normalizes both matrix products and the cell state.

    With kernel W, recurrent kernel U and bias b of `keras.layers.LSTMCell`, a time step computes

        i, f, g, o = split(LN(x W) + LN(h U) + b)
        c = LN(sigmoid(f) c + sigmoid(i) tanh(g))
        h = sigmoid(o) tanh(c)

    The LN of x W has the weights `kernel_gamma` and `kernel_beta`, and the LN of h U has `recurrent_gamma` and
    `recurrent_beta`, all of shape `(4 units,)`. The LN of the state has `state_gamma` and `state_beta` of shape
    `(units,)`. Position i of a product or of the state uses the set

        S_i = {k : k_N = i_N}
        LN(z)_i = gamma_c (z_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta_c

    so the four gates share one mean and one variance. Apart from dropout, training and inference are the same.

    The normalized c is the state of the next step, as in TensorFlow Addons, whose weights `set_weights` accepts. In the
    paper the state is the sum before normalization, and only h uses the normalized value.

    Args:
        units, activation, ...: see `keras.layers.LSTMCell`.
        epsilon, ...: see `LayerNormCell`.

    Shapes: inputs `(N, D)` and states h and c `(N, units)` to outputs and states `(N, units)`; in `keras.layers.RNN`,
        inputs `(N, T, D)`.

    Raises:
        TypeError, ValueError: when constructed, if an argument has a wrong type or value.

    Example:
        >>> layer = keras.layers.RNN(LayerNormLSTMCell(4), return_sequences=True)
        >>> y = layer(np.ones((2, 10, 8)))
        >>> tuple(y.shape)
        (2, 10, 4)

    Reference: Ba et al., Layer Normalization, 2016, https://arxiv.org/abs/1607.06450, supplement, eq. 20 to 22.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.kernel_gamma, self.kernel_beta = self._add_gamma_and_beta("kernel", 4 * self.units)
        self.recurrent_gamma, self.recurrent_beta = self._add_gamma_and_beta("recurrent", 4 * self.units)
        self.state_gamma, self.state_beta = self._add_gamma_and_beta("state", self.units)

    def call(self, inputs: Tensor, states: list[Tensor], training: bool | None = False) -> tuple[Tensor, list[Tensor]]:
        h, c = states
        x, h = self._after_dropout(inputs, h, training)
        z = layer_norm(x @ self.kernel, self.kernel_gamma, self.kernel_beta, self.epsilon)
        z = z + layer_norm(h @ self.recurrent_kernel, self.recurrent_gamma, self.recurrent_beta, self.epsilon)
        if self.use_bias:
            z = z + self.bias
        i, f, g, o = ops.split(z, 4, axis=-1)
        c = self.recurrent_activation(f) * c + self.recurrent_activation(i) * self.activation(g)
        c = layer_norm(c, self.state_gamma, self.state_beta, self.epsilon)
        h = self.recurrent_activation(o) * self.activation(c)
        return h, [h, c]
