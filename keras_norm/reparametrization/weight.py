"""Weight Normalization: the length of a kernel apart from its direction."""

from math import prod

import keras
from keras import ops

from keras_norm.arguments import Tensor
from keras_norm.kernel_layouts import output_axes, unit_axes
from keras_norm.moments import moments
from keras_norm.reparametrization.base import KernelReparametrization
from keras_norm.sets import along, axes_except

# Only a column of zeros, which has no direction, is shorter than the root of this: it stays 0, not NaN.
_SMALLEST_SQUARE = 1e-36


@keras.saving.register_keras_serializable("keras_norm")
class WeightNormalization(KernelReparametrization):
    r"""Trains the length g and the direction v of a layer's kernel apart.

    For a kernel seen as a matrix v of shape `(rest, units)` and g of shape `(units,)`, unit c has the weights

        w_c = g_c v_c / ||v_c||

    where v is the weight that the layer holds. Both are trained; the gradient to v_c is orthogonal to v_c. g starts
    as ||v||, so that wrapping a layer changes nothing at first; `initialize_from_data` sets it by the paper's
    section 3. The same in training and inference.

    Args:
        layer, weight_name, axis: see `KernelReparametrization`.

    Shapes: inputs and outputs are those of the wrapped layer.

    Example:
        >>> layer = WeightNormalization(keras.layers.Dense(3))
        >>> y = layer(np.ones((2, 4)))
        >>> [weight.name for weight in layer.weights]
        ['g', 'kernel', 'bias']

    Reference: Salimans & Kingma, Weight Normalization, NeurIPS 2016, https://arxiv.org/abs/1602.07868, eq. 2.
    """

    _vector_name = "g"
    _vector_is_trained = True

    @property
    def g(self) -> list[keras.Variable]:
        """The lengths, a vector for each re-parametrized weight."""
        return list(self._vectors)

    def _initial(self, matrix: Tensor) -> Tensor:
        return _length(matrix)

    def _effective(self, matrix: Tensor, vector: keras.Variable, training: bool | None) -> Tensor:
        return matrix * (ops.convert_to_tensor(vector) / _length(matrix))

    def has_units(self) -> bool:
        """Whether what the layer computes before its activation is a unit of the kernel, plus a bias, everywhere."""
        if not self._kernels or output_axes(self.layer) is None:
            return False
        kernel, bias = self._kernels[-1], self.layer.bias
        last = kernel.weight.name in ("kernel", "pointwise_kernel")
        whole = kernel.axes == unit_axes(self.layer, kernel.weight.name, len(kernel.weight.shape))
        return last and whole and (bias is None or prod(bias.shape) == kernel.units)

    def initialize_from(self, inputs: Tensor) -> None:
        """Sets g and bias for pre-activations of mean 0 and variance 1."""
        h = self._pre_activations(inputs)
        axes = [a % len(h.shape) for a in output_axes(self.layer) or ()]  # see `has_units`
        mean, variance, _ = moments(h, along(axes_except(h, *axes)))
        # What is left of a unit that is constant is its rounding.
        scale = ops.where(variance > 1e-12 * ops.square(mean), ops.rsqrt(variance), 1.0)
        g, bias = self.g[-1], self.layer.bias
        g.assign(g * ops.ravel(ops.moveaxis(scale, axes, list(range(len(axes))))))
        if bias is not None:
            centred = (ops.ravel(bias) - ops.ravel(mean)) * ops.ravel(scale)
            bias.assign(ops.reshape(centred, bias.shape))

    def _pre_activations(self, inputs: Tensor) -> Tensor:
        """What the layer computes before its activation."""
        activation, self.layer.activation = self.layer.activation, keras.activations.linear
        try:
            return super().call(inputs)
        finally:
            self.layer.activation = activation


def _length(matrix: Tensor) -> Tensor:
    """The length of each column."""
    square = ops.sum(ops.square(matrix), 0)
    return ops.sqrt(ops.where(square > _SMALLEST_SQUARE, square, _SMALLEST_SQUARE))
