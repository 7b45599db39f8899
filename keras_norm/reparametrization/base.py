"""The base class of wrappers that compute the kernel of a layer in each call."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

import keras
from keras import ops

from keras_norm.legacy import kept_axis, with_kept_axis
from keras_norm.reparametrization.functional_call import functional_call
from keras_norm.reparametrization.kernels import Kernel, find_kernels
from keras_norm.tensors import Tensor, at_least_float32
from keras_norm.walk import all_layers

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class KernelReparametrization(keras.layers.Wrapper):
    """Abstract base class: a subclass defines the formula of the kernel in `_effective_kernel`.

    A kernel is seen as a matrix of shape `(rest, units)` with one column per output unit, in float32 or wider. The
    formula computes the effective kernel from the stored one and, in most subclasses, a vector with one value per unit.
    The layer runs with it. Nothing is assigned: gradients reach the stored kernel through the formula. Regularizers and
    constraints act on the stored kernel.

    Args:
        layer: the layer to wrap. Its dtype policy applies; the wrapper takes none.
        weight_name: the name or names of the weights to re-parametrize, also in sublayers. None for `recurrent_kernel`
            of an RNN, else `kernel`, else `embeddings`, else `depthwise_kernel` and `pointwise_kernel` of a separable
            convolution.
        axis: the axis or axes of the output units in the weight. None for the default of the layer's type: the last
            axis; the last but one for transposed convolutions; the last two for depthwise ones; for EinsumDense the
            axes of the kernel that the equation keeps in the output.
        **kwargs: `name` and `trainable`, as in every Keras layer.

    Raises:
        TypeError: when constructed, if `layer` is not a Keras layer.
        ValueError: when constructed, if a dtype is given; when constructed or built, if another wrapper of the layer
            has been built; when built, if the layer has no such weight or axis, or the weight is already
            re-parametrized inside the layer; when built or called, if LoRA or quantization has replaced the weight.
    """

    _vector_name: str | None = None  # without a name there is no vector
    _vector_is_trained: bool

    def __init__(
        self,
        layer: keras.layers.Layer,
        weight_name: str | Sequence[str] | None = None,
        axis: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"{self._error_prefix}: layer must be a Keras layer. Received: layer={layer!r}.")
        if "dtype" in kwargs:
            raise ValueError(
                f"{self._error_prefix}: the dtype is the wrapped layer's. "
                f"Received: dtype={kwargs['dtype']!r} (give it to the layer, {layer.name!r})."
            )
        # With the dtype of the variables and no autocasting the kernel is read at its stored width.
        super().__init__(layer, dtype=layer.variable_dtype, autocast=False, **kwargs)
        self._check_wrapped_once()
        self.weight_name = weight_name
        self.axis = axis
        self.supports_masking = layer.supports_masking
        self._kernels: tuple[Kernel, ...] = ()
        self._vectors: tuple[keras.Variable | None, ...] = ()

    @property
    def _error_prefix(self) -> str:
        return type(self).__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.layer.built and _needs_several_shapes(self.layer.build):
            self.layer(*_symbolic(args), **_symbolic(kwargs))  # Keras passes a wrapper's `build` only the first shape
        return super().__call__(*args, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self._kernels = find_kernels(self._error_prefix, self.layer, self.weight_name, self.axis)
        for kernel in self._kernels:
            self._check_kernel(kernel)
        self._check_kernels_are_read()
        self._check_parametrized_once()
        self._check_wrapped_once()
        # Bypasses the attribute tracking of Keras and torch, which would register the wrapper as a sublayer.
        object.__setattr__(self.layer, "_reparametrized_by", ref(self))
        for kernel in self._kernels:
            _disable_quantization(kernel.layer, ref(self))
        # A tuple, because `tf.train.Checkpoint` does not track the class that Keras wraps a list in.
        self._vectors = tuple(self._add_vector(kernel) for kernel in self._kernels)

    def call(self, inputs: Tensor, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        self._check_kernels_are_read()
        kernels = self._effective_kernels(training)
        outputs, losses = functional_call(self.layer, kernels, inputs, *args, training=training, **kwargs)
        for loss in losses:
            self.add_loss(loss)
        return outputs

    @property
    def state_size(self) -> Any:
        """`keras.layers.RNN` reads it from a cell. A wrapped cell would compute its kernel at every time step."""
        if isinstance(self.layer, keras.layers.RNN) or not hasattr(self.layer, "state_size"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'state_size'")
        raise ValueError(_wrong_order(self._error_prefix, "RNN", self.layer.name))

    def _check_kernel(self, kernel: Kernel) -> None:
        """Refuses a kernel for which the formula has no meaning."""

    def _initial_vector(self, matrix: Tensor) -> Tensor:
        """The initial vector of shape `(units,)` for a kernel of shape `(rest, units)`, where there is a vector."""

    @abstractmethod
    def _effective_kernel(self, matrix: Tensor, vector: keras.Variable | None, training: bool | None) -> Tensor:
        """The effective kernel of shape `(rest, units)` from the stored one."""

    def fold(self) -> keras.layers.Layer:
        """Returns a plain layer with the effective kernel of inference, for export, quantization and LoRA.

        The new layer has the type, name and config of the wrapped one. The wrapper and its layer do not change.

        Example:
            >>> import keras_norm as kn
            >>> wrapper = kn.WeightNormalization(keras.layers.Dense(3))
            >>> y = wrapper(np.ones((2, 4)))
            >>> plain = wrapper.fold()
            >>> type(plain).__name__, bool(np.allclose(plain(np.ones((2, 4))), y))
            ('Dense', True)
        """
        return self._folded(self.layer.name)

    def _folded(self, name: str) -> keras.layers.Layer:
        """The wrapped layer with the effective kernel, under this name."""
        if not self.built:
            raise ValueError(
                f"{self._error_prefix}: fold needs a built layer. Received: {self.name!r} (call it once before)."
            )
        self._check_kernels_are_read()
        folded = type(self.layer).from_config(self.layer.get_config() | {"name": name})
        folded.build_from_config(self.layer.get_build_config())
        values = {id(weight): value for weight, value in self._effective_kernels(training=False)}
        for new, old in zip(folded.variables, self.layer.variables, strict=True):
            # A copy, because JAX would share the buffer, and training deletes the buffers that it donates.
            new.assign(ops.copy(values.get(id(old), old.value)))
        return folded

    def _effective_kernels(self, training: bool | None) -> list[tuple[keras.Variable, Tensor]]:
        """Each re-parametrized weight with its effective value."""
        effective = []
        for kernel, vector in zip(self._kernels, self._vectors, strict=True):
            matrix = self._effective_kernel(_upcast_matrix(kernel), vector, training)
            effective.append((kernel.weight, kernel.from_matrix(matrix)))
        return effective

    def _add_vector(self, kernel: Kernel) -> keras.Variable | None:
        """Adds the weight with one value per unit of `kernel`, where the formula has one."""
        if self._vector_name is None:
            return None
        prefix = f"{kernel.weight.name}_" if len(self._kernels) > 1 else ""
        return self.add_weight(
            name=prefix + self._vector_name,
            shape=(kernel.units,),
            initializer=lambda shape, dtype: ops.cast(self._initial_vector(_upcast_matrix(kernel)), dtype),
            dtype=at_least_float32(kernel.weight.dtype),
            trainable=self._vector_is_trained,
            autocast=False,
            aggregation="none" if self._vector_is_trained else "only_first_replica",
        )

    def _check_wrapped_once(self) -> None:
        """A layer in two wrappers would be two layers after loading, one of them without weights."""
        other = getattr(self.layer, "_reparametrized_by", lambda: None)()
        if other is not None and other is not self:
            raise ValueError(
                f"{self._error_prefix}: layer must be in one wrapper only. Received: layer={self.layer.name!r}, "
                f"wrapped by {other.name!r} (call that wrapper in both places to share it)."
            )

    def _check_parametrized_once(self) -> None:
        """If two wrappers computed one weight, the inner one would overwrite the outer one."""
        inner = [layer for layer in all_layers(self.layer) if isinstance(layer, KernelReparametrization)]
        parametrized = {id(kernel.weight): layer for layer in inner for kernel in layer._kernels}
        for kernel in self._kernels:
            if id(kernel.weight) in parametrized:
                raise ValueError(
                    f"{self._error_prefix}: a weight must be re-parametrized only once. Received: "
                    f"weight_name={kernel.weight.name!r}, which {parametrized[id(kernel.weight)].name!r} "
                    "re-parametrizes (two wrappers may share a layer if weight_name gives them different weights)."
                )

    def _check_kernels_are_read(self) -> None:
        """A layer with LoRA or a quantized dtype reads other variables than the re-parametrized weight."""
        for kernel in self._kernels:
            quantized, lora = kernel.layer.quantization_mode, getattr(kernel.layer, "lora_enabled", False)
            if quantized or lora:
                raise ValueError(
                    f"{self._error_prefix}: the wrapped layer must have a plain {kernel.weight.name}. Received: "
                    f"layer={kernel.layer.name!r} with quantization_mode={quantized!r}, lora_enabled={lora} "
                    "(fold() the wrapper first, then quantize the plain layer or enable LoRA)."
                )

    def compute_output_spec(self, inputs: Any, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(inputs, *args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), "weight_name": self.weight_name, **kept_axis(self.axis)}
        del config["dtype"]
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "KernelReparametrization":
        if "go_backwards" in config:  # Bidirectional creates its backward layer this way
            raise ValueError(_wrong_order(cls.__name__, "Bidirectional", config["layer"]["config"]["name"]))
        return super().from_config(with_kept_axis(config), custom_objects)


def _upcast_matrix(kernel: Kernel) -> Tensor:
    """The stored kernel as a matrix in float32 or wider."""
    value = kernel.weight.value
    return kernel.to_matrix(ops.cast(value, at_least_float32(keras.backend.standardize_dtype(value.dtype))))


def _disable_quantization(layer: Any, wrapper: ref) -> None:
    """Makes `layer.quantize` raise while the wrapper exists.

    `Model.quantize` skips the wrapper and quantizes the layer inside. It turns this error into a warning and continues.
    """
    quantize = layer.quantize

    def refuse(*args: Any, **kwargs: Any) -> None:
        outer = wrapper()
        if outer is None:
            return quantize(*args, **kwargs)
        raise NotImplementedError(
            f"{type(outer).__name__}: a wrapped layer is not quantized. Received: {layer.name!r} in {outer.name!r} "
            "(quantize `keras_norm.models.fold_weights(model)`, or the plain layer that fold() returns)."
        )

    layer.quantize = refuse


def _wrong_order(owner: str, outer: str, name: str) -> str:
    """The error message for a wrapper inside a layer that it must contain."""
    return (
        f"{owner}: the wrapper must be outside {outer}, not inside. "
        f"Received: {outer} of a wrapped layer={name!r} (write {owner}({outer}(...)))."
    )


def _needs_several_shapes(build: Callable[..., None]) -> bool:
    """Whether `build` takes the shapes of several inputs, as in attention."""
    parameters = inspect.signature(build).parameters.values()
    return sum(p.default is p.empty and p.kind in POSITIONAL for p in parameters) > 1


def _symbolic(arguments: Any) -> Any:
    """The arguments of a call with symbolic tensors in place of tensors."""

    def symbol(x: Any) -> Any:
        return keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype)) if hasattr(x, "shape") else x

    return keras.tree.map_structure(symbol, arguments)
