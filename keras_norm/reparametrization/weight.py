"""Weight Normalization: length and direction of a kernel as separate weights."""

from math import prod

import keras
from keras import ops

from keras_norm.kernel_layouts import output_axes, unit_axes
from keras_norm.moments import moments
from keras_norm.reparametrization.base import KernelReparametrization
from keras_norm.sets import along, axes_except
from keras_norm.tensors import Tensor

# A lower bound on squared norms. It only affects columns of zeros, which have no direction: they stay 0, not NaN.
_SMALLEST_SQUARE = 1e-36


@keras.saving.register_keras_serializable("keras_norm")
class WeightNormalization(KernelReparametrization):
    r"""Trains the length g and the direction v of a layer's kernel separately.

    For a kernel seen as a matrix v of shape `(rest, units)` and g of shape `(units,)`, unit c has the weights

        w_c = g_c v_c / ||v_c||

    where v is the stored kernel. Both are trained; the gradient of v_c is orthogonal to v_c. The initial g is ||v||, so
    wrapping a layer does not change its output; `initialize_from_data` sets it as in section 3 of the paper. The same
    in training and inference.

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
        """The lengths, one vector per re-parametrized weight."""
        return list(self._vectors)

    def _initial_vector(self, matrix: Tensor) -> Tensor:
        return _column_norms(matrix)

    def _effective_kernel(self, matrix: Tensor, vector: keras.Variable, training: bool | None) -> Tensor:
        return matrix * (ops.convert_to_tensor(vector) / _column_norms(matrix))

    def has_pre_activations(self) -> bool:
        """Whether the layer computes kernel times inputs, plus bias, before its activation, for whole units."""
        if not self._kernels or output_axes(self.layer) is None:
            return False
        kernel, bias = self._kernels[-1], self.layer.bias
        last = kernel.weight.name in ("kernel", "pointwise_kernel")
        whole = kernel.axes == unit_axes(self.layer, kernel.weight.name, len(kernel.weight.shape))
        return last and whole and (bias is None or prod(bias.shape) == kernel.units)

    def initialize_from(self, inputs: Tensor) -> None:
        """Sets g and bias for pre-activations of mean 0 and variance 1."""
        h = self._pre_activations(inputs)
        axes = [a % len(h.shape) for a in output_axes(self.layer) or ()]  # see `has_pre_activations`
        mean, variance, _ = moments(h, along(axes_except(h, *axes)))
        # The variance of a constant unit is only rounding.
        scale = ops.where(variance > 1e-12 * ops.square(mean), ops.rsqrt(variance), 1.0)
        g, bias = self.g[-1], self.layer.bias
        g.assign(g * ops.ravel(ops.moveaxis(scale, axes, list(range(len(axes))))))
        if bias is not None:
            centered = (ops.ravel(bias) - ops.ravel(mean)) * ops.ravel(scale)
            bias.assign(ops.reshape(centered, bias.shape))

    def _pre_activations(self, inputs: Tensor) -> Tensor:
        """The outputs of the layer without its activation."""
        activation, self.layer.activation = self.layer.activation, keras.activations.linear
        try:
            return super().call(inputs)
        finally:
            self.layer.activation = activation


def _column_norms(matrix: Tensor) -> Tensor:
    """The L2 norm of each column."""
    square = ops.sum(ops.square(matrix), 0)
    return ops.sqrt(ops.where(square > _SMALLEST_SQUARE, square, _SMALLEST_SQUARE))
