"""Conditional Normalization: gamma and beta are computed from a second input."""

import inspect
from typing import Any

import keras
from keras import ops

from keras_norm import arguments
from keras_norm.layers.channel import SecondInput
from keras_norm.tensors import Tensor, at_least_float32, cast, dtype_name


@keras.saving.register_keras_serializable("keras_norm")
class ConditionalNormalization(SecondInput):
    r"""Scales and shifts the output of a normalization by a gamma and a beta computed from a second input.

    For inputs x of shape `(N, ..., C)` and a condition c

        y_i = (1 + gamma(c)_i) normalization(x)_i + beta(c)_i

    The type of the functions gamma and beta depends on the condition:

    * integers of shape `(N,)`, classes from 0 to `num_classes - 1`: an embedding (conditional batch or instance
      normalization);
    * a vector of shape `(N, D)`: a dense layer (FiLM; adaptive layer normalization of diffusion transformers);
    * a map of shape `(N, ..., D)` with the rank and the spatial sizes of x: a convolution (SPADE; with `kernel_size=1`
      and inputs `(batch, time, features)`, a dense layer at each time step).

    Classes and vectors give a gamma and a beta of shape `(C,)` per sample; maps give one per position. The wrapped
    normalization computes its statistics as usual, and receives `training` and `mask` if it accepts them. At a masked
    position a normalization of this package returns its beta, or 0 without one, which this layer scales and shifts.

    Call it as `layer(x, condition)`. gamma and beta are computed in float32, or in float64 if the layer's dtype is
    float64 (except for vectors on torch, where Keras multiplies matrices in float32). They are not quantized. Class
    indices are not checked. A negative index counts from the last class. An index that is too large raises an error in
    TensorFlow on a CPU and in torch, selects zeros in TensorFlow on a GPU, and NaN in JAX. Two of these layers cannot
    share a normalization in a model that is saved.

    Args:
        normalization: a normalization of this package or of Keras, or another layer that keeps the shape of its
            inputs. Pass it `center=False, scale=False`, unless it needs its own gamma and beta as well.
        num_classes: the number of classes, if the condition is integers.
        zero_initialized: whether gamma(c) and beta(c) start at 0, so that the layer starts as the normalization alone.
            With False they start with Keras' default initializers.
        kernel_size: the size of the convolution's kernel, if the condition is a map.
        axis: the channel axis of x and of a map. The default is the axis of the normalization, or the last axis if it
            has none or several.

    Input shape: `(N, ..., C)`, and one of the shapes above. Output shape: that of the first input.

    Raises:
        TypeError: if `normalization` is not a layer.
        ValueError: when built or called, if the condition has none of the shapes above, or another rank than the one
            that the layer was built for; when built, if `normalization` changes the shape of its inputs.

    Example:
        >>> import keras_norm as kn
        >>> group = kn.GroupNormalization(3, center=False, scale=False)
        >>> layer = ConditionalNormalization(group, num_classes=10)
        >>> y = layer(np.ones((4, 8, 8, 6)), np.array([0, 3, 9, 3]))
        >>> [tuple(weight.shape) for weight in layer.weights]
        [(10, 6), (10, 6)]

    Reference: Dumoulin et al., A Learned Representation for Artistic Style, ICLR 2017,
        https://arxiv.org/abs/1610.07629, eq. 5; Perez et al., FiLM, AAAI 2018, https://arxiv.org/abs/1709.07871, eq. 1
        and 2; Park et al., Semantic Image Synthesis with Spatially-Adaptive Normalization, CVPR 2019,
        https://arxiv.org/abs/1903.07291, eq. 1.
    """

    _second_input = "condition"

    def __init__(
        self,
        normalization: keras.layers.Layer,
        num_classes: int | None = None,
        zero_initialized: bool = True,
        kernel_size: int = 3,
        axis: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(normalization, keras.layers.Layer) or isinstance(normalization, SecondInput):
            raise TypeError(
                f"{self._error_prefix}: normalization must be a layer of one input. Received: {normalization!r} "
                "(such as GroupNormalization(8, center=False, scale=False))."
            )
        if axis is None:
            axis = arguments.single_axis(getattr(normalization, "axis", None))
        super().__init__(-1 if axis is None else axis, **{"dtype": normalization.dtype_policy, **kwargs})
        self.normalization = normalization
        self.num_classes = num_classes
        if num_classes is not None:
            self.num_classes = arguments.positive_integer(self._error_prefix, "num_classes", num_classes)
        self.zero_initialized = arguments.boolean(self._error_prefix, "zero_initialized", zero_initialized)
        self.kernel_size = arguments.positive_integer(self._error_prefix, "kernel_size", kernel_size)
        self._condition_rank: int | None = None

    def build(self, inputs_shape: Any, condition_shape: Any) -> None:  # type: ignore[override]
        super().build(inputs_shape)
        self.input_spec = None  # Keras would apply it to the condition, too
        self._check_condition(inputs_shape, condition_shape)
        if not self.normalization.built:
            self.normalization.build(inputs_shape)
        self._check_normalization(inputs_shape)
        self.gamma_map = self._map("gamma", inputs_shape, condition_shape)
        self.beta_map = self._map("beta", inputs_shape, condition_shape)
        self._condition_rank = len(condition_shape)
        if not self.trainable:  # Keras does not pass the constructor's `trainable` to sublayers
            for layer in (self.normalization, self.gamma_map, self.beta_map):
                layer.trainable = False

    def call(
        self, inputs: Tensor, condition: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        self._check_condition(inputs.shape, condition.shape)
        self._check_classes(condition)
        # Keras drops `training` if a layer does not accept it, but not `mask`.
        takes_mask = mask is not None and "mask" in inspect.signature(self.normalization.call).parameters
        h = self.normalization(inputs, training=training, **({"mask": mask} if takes_mask else {}))
        h = cast(h, self.gamma_map.compute_dtype)
        gamma, beta = (self._computed(by, condition, h) for by in (self.gamma_map, self.beta_map))
        return cast((1.0 + gamma) * h + beta, self.compute_dtype)

    def _map(self, name: str, inputs_shape: Any, condition_shape: Any) -> keras.layers.Layer:
        """Creates and builds the layer that computes gamma or beta, with the channels on the last axis."""
        (channels,) = self._channel_sizes(inputs_shape)
        options = {"name": name, "dtype": at_least_float32(self.variable_dtype)}
        if self.num_classes is not None:
            start = "zeros" if self.zero_initialized else "uniform"
            layer = keras.layers.Embedding(self.num_classes, channels, embeddings_initializer=start, **options)
        else:
            options["kernel_initializer"] = "zeros" if self.zero_initialized else "glorot_uniform"
            if len(condition_shape) == 2:
                layer = keras.layers.Dense(channels, **options)
            else:
                convolution = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)[len(condition_shape) - 3]
                layer = convolution(channels, self.kernel_size, padding="same", data_format="channels_last", **options)
        layer.build(self._channels_last(condition_shape))
        layer.quantize = _refuse_quantization
        return layer

    def _computed(self, by: keras.layers.Layer, condition: Tensor, h: Tensor) -> Tensor:
        """gamma or beta, in a shape that broadcasts against `h`."""
        rank, (axis,) = len(h.shape), self._affine_axes(len(h.shape))
        if self.num_classes is None:
            condition = cast(condition, by.compute_dtype)
        if self.num_classes is None and len(condition.shape) > 2:
            order = self._channels_last(range(rank))
            return ops.transpose(by(ops.transpose(condition, order)), [order.index(a) for a in range(rank)])
        values = by(condition)
        return ops.reshape(values, (-1, *[values.shape[-1] if a == axis else 1 for a in range(1, rank)]))

    def _channels_last(self, sizes: Any) -> list[Any]:
        """The sizes of the condition with the channels last, where vectors already have them."""
        sizes = list(sizes)
        if len(sizes) > 2:
            sizes.append(sizes.pop(*self._affine_axes(len(sizes))))
        return sizes

    def _check_condition(self, inputs_shape: Any, condition_shape: Any) -> None:
        rank, of_condition = len(inputs_shape), len(condition_shape)
        if self.num_classes is not None:
            fits = of_condition == 1 or tuple(condition_shape[1:]) == (1,)
            rule = "with num_classes it must be integers of shape (N,)"
        else:
            axes = [a for a in range(1, rank) if a not in self._affine_axes(rank)]
            sizes = [(inputs_shape[a], condition_shape[a]) for a in axes] if of_condition == rank <= 5 else [(1, 2)]
            fits = of_condition == 2 or all(None in pair or pair[0] == pair[1] for pair in sizes)
            rule = "it must be a vector (N, D), or a map of the rank and the spatial sizes of the inputs"
            if fits and self._condition_rank not in (None, of_condition):
                fits, rule = False, f"it must have the {self._condition_rank} axes that the layer was built for"
            elif fits and self._condition_rank is None and self._channels_last(condition_shape)[-1] is None:
                fits, rule = False, "its channels must be of known size (give it to keras.Input)"
        samples = (inputs_shape[0], condition_shape[0])
        if fits and None not in samples and samples[0] != samples[1]:
            fits, rule = False, "it must have a row for each sample of the inputs"
        if not fits:
            raise ValueError(
                f"{self._error_prefix}: the condition must fit: {rule}. Received: "
                f"condition.shape={tuple(condition_shape)}, inputs.shape={tuple(inputs_shape)}, "
                f"num_classes={self.num_classes} (classes need num_classes; resize a map to the inputs)."
            )

    def _check_classes(self, condition: Tensor) -> None:
        if self.num_classes is not None and not keras.backend.is_int_dtype(dtype_name(condition.dtype)):
            raise ValueError(
                f"{self._error_prefix}: with num_classes the condition must be integers. Received: "
                f"condition.dtype={dtype_name(condition.dtype)}, num_classes={self.num_classes} "
                "(an input of a model is keras.Input((), dtype='int32'))."
            )

    def _check_normalization(self, inputs_shape: Any) -> None:
        inputs = keras.KerasTensor(inputs_shape, self.compute_dtype)
        shape = tuple(self.normalization.compute_output_spec(inputs).shape)
        if shape != tuple(inputs_shape):
            raise ValueError(
                f"{self._error_prefix}: normalization must keep the shape of its inputs. Received: "
                f"normalization={self.normalization!r}, which changes {tuple(inputs_shape)} to {shape}."
            )

    def compute_output_spec(self, inputs: Tensor, condition: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._check_classes(condition)
        return super().compute_output_spec(inputs, condition, *args, **kwargs)

    def compute_output_shape(self, inputs_shape: Any, condition_shape: Any) -> Any:  # type: ignore[override]
        self._check_condition(inputs_shape, condition_shape)
        return inputs_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "normalization": keras.saving.serialize_keras_object(self.normalization),
            "num_classes": self.num_classes,
            "zero_initialized": self.zero_initialized,
            "kernel_size": self.kernel_size,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ConditionalNormalization":
        normalization = keras.saving.deserialize_keras_object(config["normalization"])
        return super().from_config({**config, "normalization": normalization})  # type: ignore[return-value]


def _refuse_quantization(*args: Any, **kwargs: Any) -> None:
    """Raises an error that `Model.quantize` turns into a warning before it continues."""
    raise NotImplementedError("ConditionalNormalization: its maps gamma and beta are not quantized.")
