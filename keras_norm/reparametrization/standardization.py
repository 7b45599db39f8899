"""Weight Standardization: the weights of each output unit with mean 0 and a fixed variance."""

from collections.abc import Sequence
from math import prod
from typing import Any

import keras
from keras import ops

from keras_norm import arguments
from keras_norm.moments import moments
from keras_norm.reparametrization.base import KernelReparametrization
from keras_norm.reparametrization.kernels import Kernel
from keras_norm.sets import along
from keras_norm.tensors import Tensor


class KernelStandardization(KernelReparametrization):
    """Abstract base class: kernels whose units are centered and divided by a standard deviation.

    Args:
        layer, weight_name, axis: see `KernelReparametrization`.
        epsilon: a positive number in the square root. A unit of equal weights gets zeros.
        **kwargs: `name` and `trainable`, as in every Keras layer.

    Raises:
        ValueError: when constructed, if `epsilon` is not positive; when built, if units of the kernel have one weight
            each, such as those of a depthwise convolution of size 1, which would all become 0.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        weight_name: str | Sequence[str] | None,
        axis: int | Sequence[int] | None,
        epsilon: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, weight_name, axis, **kwargs)
        self.epsilon = arguments.positive(
            self._error_prefix, "epsilon", epsilon, hint="the variance of a kernel is small"
        )

    def _check_kernel(self, kernel: Kernel) -> None:
        if kernel.units == prod(kernel.weight.shape):
            raise ValueError(
                f"{self._error_prefix}: each unit must have several weights, or all become 0. Received: "
                f"{kernel.weight.name} of shape {tuple(kernel.weight.shape)} with units along axis={kernel.axes} "
                "(leave this layer as it is, or give weight_name another weight or axis fewer axes)."
            )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("keras_norm")
class WeightStandardization(KernelStandardization):
    r"""Standardizes the weights of each unit of a layer's kernel.

    For a kernel seen as a matrix v of shape `(rest, units)`, unit c has the weights

        w_c = (v_c - mean(v_c)) / sqrt(var(v_c) + epsilon)

    where v is the stored kernel, and `var` is divided by `rest`. The gradient of v_c sums to 0. The same in training
    and inference.

    The outputs are about `sqrt(rest)` times as large as the inputs, so a normalization should follow the layer. The
    paper uses `GroupNormalization`. Without one, use `ScaledWeightStandardization`.

    Args:
        layer, weight_name, axis: see `KernelReparametrization`.
        epsilon: a positive number. The default is that of `StdConv2d` in timm. The paper's code adds 1e-5 to the
            standard deviation instead. Keep it far below the variance of the kernel, which is near `1 / rest`.

    Shapes: inputs and outputs are those of the wrapped layer.

    Raises:
        ValueError: see `KernelStandardization`.

    Example:
        >>> layer = WeightStandardization(keras.layers.Conv2D(3, 3, use_bias=False))
        >>> y = layer(np.ones((2, 8, 8, 4)))
        >>> kernel = layer.fold().kernel
        >>> bool(np.allclose(np.mean(kernel, (0, 1, 2)), 0.0, atol=1e-6)), np.round(np.std(kernel, (0, 1, 2)), 3)
        (True, array([1., 1., 1.], dtype=float32))

    Reference: Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, 2019,
        https://arxiv.org/abs/1903.10520.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        weight_name: str | Sequence[str] | None = None,
        axis: int | Sequence[int] | None = None,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, weight_name, axis, epsilon, **kwargs)

    def _effective_kernel(self, matrix: Tensor, vector: None, training: bool | None) -> Tensor:
        mean, variance, _ = moments(matrix, along((0,)))
        return (matrix - mean) / ops.sqrt(variance + self.epsilon)


@keras.saving.register_keras_serializable("keras_norm")
class ScaledWeightStandardization(KernelStandardization):
    r"""Standardizes the weights of each unit of a layer's kernel, for outputs as large as the inputs.

    For a kernel seen as a matrix v of shape `(rest, units)`, with fan_in = `rest`, and g of shape `(units,)`, unit c
    has the weights

        w_c = g_c (v_c - mean(v_c)) / sqrt(fan_in var(v_c) + epsilon)

    where v is the stored kernel, and `var` is divided by `rest`. Both v and g are trained. Independent inputs with a
    common mean and variance 1 give outputs with mean 0 and variance g^2. The same in training and inference.

    Networks without other normalization multiply each nonlinearity by a constant that restores its variance, such as
    1.7139588594436646 for ReLU. Multiply the nonlinearity, or give the constant to the next layer as `gain`.

    Args:
        layer, weight_name, axis: see `KernelReparametrization`.
        gain: the initial value of g.
        epsilon: a positive number. The paper's code takes the maximum of `fan_in var` and 1e-4 instead of the sum.
            `ScaledStdConv2d` in timm adds 1e-6 to `var`, which is `epsilon = 1e-6 * fan_in` here.

    Shapes: inputs and outputs are those of the wrapped layer.

    Raises:
        TypeError: when constructed, if `gain` is not a number.
        ValueError: see `KernelStandardization`.

    Example:
        >>> layer = ScaledWeightStandardization(keras.layers.Dense(100))
        >>> y = layer(np.random.default_rng(0).normal(5.0, 1.0, (100, 400)))
        >>> round(float(np.std(y)), 1)
        1.0

    Reference: Brock et al., Characterizing Signal Propagation, ICLR 2021, https://arxiv.org/abs/2101.08692; with a
        trained g in Brock et al., High-Performance Image Recognition Without Normalization, ICML 2021,
        https://arxiv.org/abs/2102.06171.
    """

    _vector_name = "g"
    _vector_is_trained = True

    def __init__(
        self,
        layer: keras.layers.Layer,
        weight_name: str | Sequence[str] | None = None,
        axis: int | Sequence[int] | None = None,
        gain: float = 1.0,
        epsilon: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, weight_name, axis, epsilon, **kwargs)
        self.gain = arguments.number(self._error_prefix, "gain", gain)

    @property
    def g(self) -> list[keras.Variable]:
        """The gains, one vector per re-parametrized weight."""
        return list(self._vectors)

    def _initial_vector(self, matrix: Tensor) -> Tensor:
        return ops.full((matrix.shape[1],), self.gain, matrix.dtype)

    def _effective_kernel(self, matrix: Tensor, vector: keras.Variable, training: bool | None) -> Tensor:
        mean, variance, fan_in = moments(matrix, along((0,)))
        return ops.convert_to_tensor(vector) * (matrix - mean) / ops.sqrt(fan_in * variance + self.epsilon)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gain": self.gain}
