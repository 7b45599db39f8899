"""What layers with a channel axis share: dtypes, masks, ranks, full signatures."""

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
    """Abstract base of all layers of this package that have a channel axis.

    Weights are float32 or wider under every dtype policy. Inputs are not cast on the way in, so that float32 inputs
    above 65504 survive a float16 policy; outputs have the policy's compute dtype. A mask is passed on.

    A layer that was built for inputs of one rank takes those of another whose sizes along `axis` are the same.

    Args:
        axis: the channel axis.
        **kwargs: those of every Keras layer: `name`, `dtype`, `trainable`.

    Raises:
        TypeError, ValueError: when constructed, for an argument of the wrong type or value; when built or
            called, for a shape that does not fit.
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
        """The name that error messages begin with."""
        return type(self).__name__

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if None in self._channel_sizes(input_shape):
            raise ValueError(
                f"{self._error_prefix}: weights must run along axes of known size. Received: "
                f"axis={self.axis}, input_shape={tuple(input_shape)} (give the size to keras.Input)."
            )
        self.input_spec = arguments.input_spec(self._listed_axes(), input_shape)

    def rematerialized_call(
        self, layer_call: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Callable[..., Tensor]:
        """How `keras.RematScope` recomputes the call in the backward pass."""
        if keras.backend.backend() == "tensorflow":
            return layer_call  # keeps x and its statistics alone, and Keras' recomputation fails inside tf.function
        return super().rematerialized_call(layer_call, *args, **kwargs)

    def _check_axis(self, axis: Any) -> Any:
        """The `axis` of the constructor, if it is one."""
        return arguments.integer(self._error_prefix, "axis", axis)

    def _listed_axes(self) -> list[int]:
        """The axes that the weights run along, as the user counts them."""
        return [self.axis]

    def _affine_axes(self, rank: int) -> list[int]:
        """The axes that the weights run along, counted from 0."""
        return [arguments.resolve_channel_axis(self._error_prefix, self.axis, rank)]

    def _channel_sizes(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The sizes of these axes."""
        axes = self._affine_axes(arguments.rank_of(self._error_prefix, input_shape))
        return tuple(input_shape[a] for a in axes)

    def _along_channels(self, values: Tensor | None, x: Tensor) -> Tensor | None:
        """Values along the channel axis or axes, shaped to broadcast against `x`."""
        return arguments.resolve_weight(self._error_prefix, "weights", values, self._affine_axes(len(x.shape)), x)

    def _as_computed(self, inputs: Tensor) -> Tensor:
        """The inputs as a tensor in the compute dtype; in float32 or wider where they have another dtype."""
        x = ops.convert_to_tensor(inputs)
        return x if dtype_name(x.dtype) == self.compute_dtype else cast(x, at_least_float32(x.dtype))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        self._channel_sizes(input_shape)
        return input_shape

    def _taken(self, config: dict[str, Any]) -> dict[str, Any]:
        """The entries of a config that are arguments of this layer."""
        return {name: value for name, value in config.items() if name not in self._sets_itself}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **kept_axis(self.axis)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ChannelLayer":
        return super().from_config(with_kept_axis(config))


class SecondInput(ChannelLayer):
    """Abstract base of the layers that are called with two inputs."""

    _second_input: str
    """The name of the second input in `call`."""

    def __call__(self, *inputs: Any, **kwargs: Any) -> Tensor:
        if len(inputs) < 2 and self._second_input not in kwargs:
            raise ValueError(
                f"{self._error_prefix}: it must be called with two inputs. Received: inputs of type "
                f"{[type(x).__name__ for x in inputs]} (call layer(inputs, {self._second_input}), without a list)."
            )
        return super().__call__(*inputs, **kwargs)
