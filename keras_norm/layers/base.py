"""What all layers of the family share: epsilon, gamma and beta, masks, dtypes, the config."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import keras
from keras import constraints, initializers, ops, regularizers

from keras_norm import arguments
from keras_norm.layers.signatures import describe
from keras_norm.legacy import kept_axis, with_kept_axis
from keras_norm.tensors import Tensor, at_least_float32, cast, dtype_name


class Normalization(keras.layers.Layer):
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

    _sets_itself: frozenset[str] = frozenset()
    """The arguments of its bases that a layer does not take."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Lists all arguments of a layer in its signature and docstring."""
        super().__init_subclass__(**kwargs)
        describe(cls, Normalization, cls._sets_itself)

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
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True
        self.axis = self._check_axis(axis)
        self.epsilon = arguments.positive(self._error_prefix, "epsilon", epsilon)
        self.center = arguments.boolean(self._error_prefix, "center", center)
        self.scale = arguments.boolean(self._error_prefix, "scale", scale)
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.gamma: Any = None
        self.beta: Any = None

    @property
    def _error_prefix(self) -> str:
        """The name that error messages begin with."""
        return type(self).__name__

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        sizes = {a: input_shape[a] for a in self._affine_axes(arguments.rank_of(self._error_prefix, input_shape))}
        if None in sizes.values():
            raise ValueError(
                f"{self._error_prefix}: gamma and beta must run along axes of known size. Received: "
                f"axis={self.axis}, input_shape={tuple(input_shape)} (give the size to keras.Input)."
            )
        self.input_spec = arguments.input_spec(self._listed_axes(), input_shape)
        for name, is_wanted in (("gamma", self.scale), ("beta", self.center)):
            if is_wanted:
                keywords = {
                    role: getattr(self, f"{name}_{role}") for role in ("initializer", "regularizer", "constraint")
                }
                setattr(self, name, self._add_float32_weight(name, sizes.values(), **keywords))

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        x = ops.convert_to_tensor(inputs)
        if dtype_name(x.dtype) != self.compute_dtype:
            x = cast(x, at_least_float32(x.dtype))
        return cast(self._normalize(x, training, mask), self.compute_dtype)

    def rematerialized_call(
        self, layer_call: Callable[..., Tensor], *args: Any, **kwargs: Any
    ) -> Callable[..., Tensor]:
        """How `keras.RematScope` recomputes the call in the backward pass."""
        if keras.backend.backend() == "tensorflow":
            return layer_call  # keeps x and its statistics alone, and Keras' recomputation fails inside tf.function
        return super().rematerialized_call(layer_call, *args, **kwargs)

    @abstractmethod
    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        """The layer's formula on `x`, computed in float32 or wider."""

    def _check_axis(self, axis: Any) -> Any:
        """The `axis` of the constructor, if it is one."""
        return arguments.integer(self._error_prefix, "axis", axis)

    def _listed_axes(self) -> list[int]:
        """The axes that gamma and beta run along, as the user counts them."""
        return [self.axis]

    def _affine_axes(self, rank: int) -> list[int]:
        """The axes that gamma and beta run along, counted from 0."""
        return [arguments.resolve_channel_axis(self._error_prefix, self.axis, rank)]

    def _add_float32_weight(self, name: str, shape: Any, initializer: Any, **kwargs: Any) -> keras.Variable:
        """A weight in float32 or wider, which autocasting leaves alone."""
        kwargs |= {"dtype": at_least_float32(self.variable_dtype), "autocast": False}
        return self.add_weight(name=name, shape=tuple(shape), initializer=initializer, **kwargs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        self._affine_axes(arguments.rank_of(self._error_prefix, input_shape))
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            **kept_axis(self.axis),
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "beta_regularizer": regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": constraints.serialize(self.beta_constraint),
            "gamma_constraint": constraints.serialize(self.gamma_constraint),
        }
        return {name: value for name, value in config.items() if name not in self._sets_itself}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Normalization":
        return super().from_config(with_kept_axis(config))
