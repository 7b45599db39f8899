"""The base class of layers with a channel axis: dtypes, masks, ranks, full signatures."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_norm import arguments
from keras_norm.layers.affine import Affine
from keras_norm.layers.signatures import describe
from keras_norm.legacy import kept_axis, with_kept_axis
from keras_norm.tensors import Tensor, at_least_float32, cast, dtype_name


class ChannelLayer(Affine):
    """Abstract base class of all layers in this package with a channel axis.

    Weights are float32 or wider under every dtype policy. The layer does not cast its inputs, so float32 inputs above
    65504 do not overflow under a float16 policy. Outputs have the policy's compute dtype. The layer passes masks on.

    A built layer accepts inputs of any rank, as long as their sizes along `axis` stay the same.

    Args:
        axis: the channel axis.
        **kwargs: `name`, `dtype` and `trainable`, as in every Keras layer.

    Raises:
        TypeError, ValueError: when constructed, if an argument has a wrong type or value; when built or called, if a
            shape does not fit.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lists all arguments of a layer in its signature and docstring."""
        super().__init_subclass__(**kwargs)
        describe(cls, ChannelLayer, cls._sets_itself)

    def __init__(self, axis: Any = -1, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.axis = self._check_axis(axis)

    @property
    def _error_prefix(self) -> str:
        """The first word of error messages."""
        return type(self).__name__

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if None in self._channel_sizes(input_shape):
            raise ValueError(
                f"{self._error_prefix}: axes with weights must have known sizes. Received: "
                f"axis={self.axis}, input_shape={tuple(input_shape)} (give the size to keras.Input)."
            )
        self.input_spec = arguments.input_spec(self._listed_axes(), input_shape)

    def rematerialized_call(
        self, layer_call: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Callable[..., Tensor]:
        """How `keras.RematScope` recomputes the call in the backward pass."""
        if keras.backend.backend() == "tensorflow":
            return layer_call  # stores only x and its statistics; Keras' recomputation fails inside tf.function
        return super().rematerialized_call(layer_call, *args, **kwargs)

    def _check_axis(self, axis: Any) -> Any:
        """Validates the `axis` of the constructor."""
        return arguments.integer(self._error_prefix, "axis", axis)

    def _listed_axes(self) -> list[int]:
        """The axes of the weights, as the user gave them."""
        return [self.axis]

    def _affine_axes(self, rank: int) -> list[int]:
        """The axes of the weights, counted from 0."""
        return [arguments.resolve_channel_axis(self._error_prefix, self.axis, rank)]

    def _channel_sizes(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The sizes of these axes."""
        axes = self._affine_axes(arguments.rank_of(self._error_prefix, input_shape))
        return tuple(input_shape[a] for a in axes)

    def _along_channels(self, values: Tensor | None, x: Tensor) -> Tensor | None:
        """Reshapes values along the channel axes to broadcast against `x`."""
        return arguments.resolve_weight(self._error_prefix, "weights", values, self._affine_axes(len(x.shape)), x)

    def _as_computed(self, inputs: Tensor) -> Tensor:
        """The inputs as a tensor: unchanged if in the compute dtype, otherwise cast to float32 or wider."""
        x = ops.convert_to_tensor(inputs)
        return x if dtype_name(x.dtype) == self.compute_dtype else cast(x, at_least_float32(x.dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        self._channel_sizes(input_shape)
        return input_shape

    def _taken(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config entries that this layer accepts as arguments."""
        return {name: value for name, value in config.items() if name not in self._sets_itself}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **kept_axis(self.axis)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ChannelLayer":
        return super().from_config(with_kept_axis(config))


class SecondInput(ChannelLayer):
    """Abstract base class of layers with two inputs."""

    _second_input: str
    """The name of the second input in `call`."""

    def __call__(self, *inputs: Any, **kwargs: Any) -> Tensor:
        if len(inputs) < 2 and self._second_input not in kwargs:
            raise ValueError(
                f"{self._error_prefix}: it must be called with two inputs. Received: inputs of type "
                f"{[type(x).__name__ for x in inputs]} (call layer(inputs, {self._second_input}), without a list)."
            )
        return super().__call__(*inputs, **kwargs)
