"""Frozen Batch Normalization: a batch normalization that always uses its moving statistics."""

from collections.abc import Callable
from typing import Any

import keras

from keras_norm import arguments
from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class FrozenBatchNormalization(keras.layers.Wrapper):
    r"""Always runs a batch normalization in inference mode.

    For inputs of shape `(N, ..., C)` and the moving statistics of the layer inside

        y_i = gamma_c (x_i - moving_mean_c) / sqrt(moving_variance_c + epsilon) + beta_c

    also with `training=True`. With `affine`, gamma and beta are constant, too, even if `trainable` is set on this layer
    or on a model that contains it. `layer.layer` is the original batch normalization.

    Args:
        layer: a batch normalization of `keras.layers` or of this package.
        affine: whether gamma and beta (and the gate rho) are constant.
        **kwargs: as in every Keras layer. The default name and dtype policy are those of `layer`.

    Input shape: that of `layer`. Output shape: the same.

    Raises:
        TypeError: if `layer` is not a batch normalization.

    Example:
        >>> layer = FrozenBatchNormalization(keras.layers.BatchNormalization())
        >>> y = layer(np.ones((4, 8, 8, 6)), training=True)
        >>> layer.trainable = True
        >>> len(layer.trainable_weights), len(layer.weights)
        (0, 4)

    Reference: He et al., Deep Residual Learning, CVPR 2016, https://arxiv.org/abs/1512.03385, appendix A: in
        fine-tuning, batch normalization is an affine map with statistics computed on the training set.
    """

    def __init__(self, layer: keras.layers.Layer, affine: bool = True, **kwargs: Any) -> None:
        if not isinstance(layer, (keras.layers.BatchNormalization, BaseBatchNormalization)):
            raise TypeError(
                f"FrozenBatchNormalization: layer must be a batch normalization. "
                f"Received: layer={layer!r} ({type(layer).__name__})."
            )
        # No autocasting, because the wrapped layer casts its inputs.
        super().__init__(layer, autocast=False, **{"name": layer.name, "dtype": layer.dtype_policy, **kwargs})
        self.supports_masking = True
        self.affine = arguments.boolean("FrozenBatchNormalization", "affine", affine)

    @property
    def axis(self) -> int:
        """The channel axis of the wrapped layer."""
        axis: int = self.layer.axis
        return axis

    @property
    def trainable(self) -> bool:
        """The value that was set. With `affine` it does not affect the variables."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if self.affine:
            self._trainable = bool(value)
        else:
            keras.layers.Wrapper.trainable.fset(self, value)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if self.affine:
            for variable in self.layer.variables:
                variable.trainable = False

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        return self.layer(inputs, training=False, mask=mask)

    def rematerialized_call(
        self, layer_call: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Callable[..., Tensor]:
        return layer_call  # an affine map stores only x

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "affine": self.affine}
