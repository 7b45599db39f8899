"""The base class of all normalizations: epsilon, gamma and beta, masks."""

from abc import abstractmethod
from typing import Any

from keras_norm import arguments
from keras_norm.layers.channel import ChannelLayer
from keras_norm.tensors import Tensor, cast


class Normalization(ChannelLayer):
    """Abstract base class of all normalization layers. A subclass implements its set S_i in `_normalize`.

    Statistics and weights are float32 or wider under every dtype policy. The layer does not cast its inputs, so float32
    inputs above 65504 do not overflow under a float16 policy. Outputs have the policy's compute dtype.

    A mask has the shape of the inputs or of their leading axes, and is True at valid positions. A masked position
    belongs to no set, and its output is beta. The layer passes the mask on.

    A built layer accepts inputs of any rank, as long as their sizes along `axis` stay the same.

    Args:
        axis: the channel axis.
        epsilon: a positive number, added to the variance as in `sqrt(variance + epsilon)`.
        center: whether to add beta.
        scale: whether to multiply by gamma.
        beta_initializer, gamma_initializer: Keras initializers; zeros and ones by default.
        beta_regularizer, gamma_regularizer: Keras regularizers; none by default.
        beta_constraint, gamma_constraint: Keras constraints; none by default.
        **kwargs: `name`, `dtype` and `trainable`, as in every Keras layer.

    Raises:
        TypeError, ValueError: when constructed, if an argument has a wrong type or value; when built or called, if a
            shape does not fit.
    """

    def __init__(
        self,
        axis: Any = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, **kwargs)
        self.epsilon = arguments.positive(self._error_prefix, "epsilon", epsilon)
        self.center = arguments.boolean(self._error_prefix, "center", center)
        self.scale = arguments.boolean(self._error_prefix, "scale", scale)
        of_beta = (beta_initializer, beta_regularizer, beta_constraint)
        self._set_affine(*of_beta, gamma_initializer, gamma_regularizer, gamma_constraint)
        self.gamma: Any = None
        self.beta: Any = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        sizes = self._channel_sizes(input_shape)
        self.gamma = self._add_affine("gamma", sizes) if self.scale else None
        self.beta = self._add_affine("beta", sizes) if self.center else None

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        return cast(self._normalize(self._as_computed(inputs), training, mask), self.compute_dtype)

    @abstractmethod
    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        """Applies the formula to `x`, in float32 or wider."""

    def _scale_and_shift(self, h: Tensor) -> Tensor:
        """Returns gamma h + beta, without the terms that the layer does not have."""
        if self.gamma is not None:
            h = h * self._along_channels(self.gamma, h)
        return h if self.beta is None else h + self._along_channels(self.beta, h)

    def get_config(self) -> dict[str, Any]:
        config = {
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            **self._affine_config(),
        }
        return {**super().get_config(), **self._taken(config)}
