"""A batch normalization whose statistics no training changes."""

from collections.abc import Callable
from typing import Any

import keras

from keras_norm import arguments
from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class FrozenBatchNormalization(keras.layers.Wrapper):
    r"""Runs a batch normalization in inference mode, always.

    For inputs of shape `(N, ..., C)` and the moving statistics of the layer inside

        y_i = gamma_c (x_i - moving_mean_c) / sqrt(moving_variance_c + epsilon) + beta_c

    whatever `training` says. With `affine`, gamma and beta are fixed too, and setting `trainable` on this layer or on
    a model around it changes neither. `layer.layer` is the batch normalization as it was, to put back.

    Args:
        layer: a batch normalization of `keras.layers` or of this package.
        affine: whether gamma and beta (and the gate rho) are fixed too.
        **kwargs: those of every Keras layer; by default the name and dtype policy of `layer`.

    Input shape: that of `layer`. Output shape: the same.

    Raises:
        TypeError: if `layer` is no batch normalization.

    Example:
        >>> layer = FrozenBatchNormalization(keras.layers.BatchNormalization())
        >>> y = layer(np.ones((4, 8, 8, 6)), training=True)
        >>> layer.trainable = True
        >>> len(layer.trainable_weights), len(layer.weights)
        (0, 4)

    Reference: He et al., Deep Residual Learning, CVPR 2016, https://arxiv.org/abs/1512.03385, appendix A: batch
        normalization fixed in fine-tuning, an affine map of the statistics found on the training set.
    """

    def __init__(self, layer: keras.layers.Layer, affine: bool = True, **kwargs: Any) -> None:
        if not isinstance(layer, (keras.layers.BatchNormalization, BaseBatchNormalization)):
            raise TypeError(
                f"FrozenBatchNormalization: layer must be a batch normalization. "
                f"Received: layer={layer!r} ({type(layer).__name__})."
            )
        # Inputs reach the layer inside as they are: it casts them itself.
        super().__init__(layer, autocast=False, **{"name": layer.name, "dtype": layer.dtype_policy, **kwargs})
        self.supports_masking = True
        self.affine = arguments.boolean("FrozenBatchNormalization", "affine", affine)

    @property
    def axis(self) -> int:
        """The channel axis of the layer inside."""
        axis: int = self.layer.axis
        return axis

    @property
    def trainable(self) -> bool:
        """As the user set it; with `affine` it reaches no variable."""
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
        return layer_call  # an affine map keeps nothing but x

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "affine": self.affine}
