"""What all normalizations of the family share: epsilon, gamma and beta, masks."""

from abc import abstractmethod
from typing import Any

from keras_norm import arguments
from keras_norm.layers.channel import ChannelLayer
from keras_norm.tensors import Tensor, cast


class Normalization(ChannelLayer):
    """Abstract base of all normalization layers. A subclass names its set S_i in `_normalize`.

    Statistics and weights are float32 or wider under every dtype policy. Inputs are not cast on the way in, so
    that float32 inputs above 65504 survive a float16 policy; outputs have the policy's compute dtype.

    A mask is True where a position counts and has the shape of the inputs or of their leading axes. A masked
    position belongs to no set and its output is beta; the mask is passed on.

    A layer that was built for inputs of one rank takes those of another whose sizes along `axis` are the same.

    Args:
        axis: the channel axis.
        epsilon: added to the variance, as in `sqrt(variance + epsilon)`; positive.
        center: whether to add beta.
        scale: whether to multiply by gamma.
        beta_initializer, gamma_initializer: zeros and ones, or what Keras takes for an initializer.
        beta_regularizer, gamma_regularizer: none, or what Keras takes for a regularizer.
        beta_constraint, gamma_constraint: none, or what Keras takes for a constraint.
        **kwargs: those of every Keras layer: `name`, `dtype`, `trainable`.

    Raises:
        TypeError, ValueError: when constructed, for an argument of the wrong type or value; when built or
            called, for a shape that does not fit.
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
        """The layer's formula on `x`, computed in float32 or wider."""

    def _scale_and_shift(self, h: Tensor) -> Tensor:
        """gamma h + beta, as far as the layer has them."""
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
