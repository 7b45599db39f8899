"""What re-parametrizing wrappers share: the wrapped layer is run with a kernel that is computed in each call."""

import gc
import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import keras
from keras import ops

from keras_norm._keras import all_layers
from keras_norm.legacy import kept_axis, with_kept_axis
from keras_norm.reparametrization.kernels import Kernel, find_kernels
from keras_norm.reparametrization.substitution import call_with
from keras_norm.tensors import Tensor, at_least_float32

NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_WRAPPERS: WeakKeyDictionary[keras.layers.Layer, ref] = WeakKeyDictionary()


class KernelReparametrization(keras.layers.Wrapper):
    """Abstract base of the wrappers that compute a layer's kernel: a subclass says in `_effective` how.

    A kernel is seen as a matrix of shape `(rest, units)` with a column for each output unit, in float32 or wider.
    From the weight that the layer holds, and from one vector with a value for each unit, comes the effective kernel,
    with which the layer runs. Nothing is assigned: the layer's own weight is trained through the formula. Its
    regularizers and constraints act on that weight.

    Args:
        layer: the layer to wrap. Its dtype policy rules; the wrapper has none of its own.
        weight_name: the weight to re-parametrize, or several; in sublayers too. None for an RNN's
            `recurrent_kernel`, else `kernel`, else `embeddings`, else the `depthwise_kernel` and `pointwise_kernel`
            of a separable convolution.
        axis: the axis or axes of the weight along which the output units lie. None for those that the type of the
            layer tells: the last one; the last but one for transposed convolutions; the last two for depthwise
            ones; those of an EinsumDense kernel that its equation keeps in the output.
        **kwargs: `name` and `trainable`, as in every Keras layer.

    Raises:
        TypeError: when constructed, if `layer` is not a Keras layer.
        ValueError: when constructed, if the layer is in another wrapper or a dtype is given; when built, if the
            layer has no such weight or axis, or the weight is re-parametrized inside the layer already; when built
            or called, if LoRA or quantization has replaced the weight.
    """

    _vector_name: str
    _vector_is_trained: bool

    def __init__(
        self,
        layer: keras.layers.Layer,
        weight_name: str | Sequence[str] | None = None,
        axis: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"{self._owner}: layer must be a Keras layer. Received: layer={layer!r}.")
        if "dtype" in kwargs:
            raise ValueError(
                f"{self._owner}: the dtype is the wrapped layer's. "
                f"Received: dtype={kwargs['dtype']!r} (give it to the layer, {layer.name!r})."
            )
        # Of the dtype of its variables, and without autocasting: so the kernel is read as wide as it is stored.
        super().__init__(layer, dtype=layer.variable_dtype, autocast=False, **kwargs)
        self._refuse_a_second_wrapper()
        self.weight_name = weight_name
        self.axis = axis
        self.supports_masking = layer.supports_masking
        self._kernels: tuple[Kernel, ...] = ()
        self._vectors: tuple[keras.Variable, ...] = ()

    @property
    def _owner(self) -> str:
        """Whom an error names."""
        return type(self).__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.layer.built and _takes_several_shapes(self.layer.build):
            self.layer(*_symbolic(args), **_symbolic(kwargs))  # `build` of a wrapper is told the first shape only
        return super().__call__(*args, **kwargs)

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        self._kernels = find_kernels(self._owner, self.layer, self.weight_name, self.axis)
        self._refuse_what_replaces_the_kernel()
        self._refuse_a_second_formula()
        for kernel in self._kernels:
            _keep_from_quantization(kernel.owner, ref(self))
        # A tuple, because Keras wraps a list in a class of Keras, which `tf.train.Checkpoint` does not track.
        self._vectors = tuple(self._add_vector(kernel) for kernel in self._kernels)

    def call(self, inputs: Tensor, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        self._refuse_what_replaces_the_kernel()
        kernels = self._effective_kernels(training)
        outputs, losses = call_with(self.layer, kernels, inputs, *args, training=training, **kwargs)
        for loss in losses:
            self.add_loss(loss)
        return outputs

    @property
    def state_size(self) -> Any:
        """What `keras.layers.RNN` asks of a cell: a wrapped one would compute its kernel anew at each step."""
        if isinstance(self.layer, keras.layers.RNN) or not hasattr(self.layer, "state_size"):
            raise AttributeError(f"{self._owner!r} object has no attribute 'state_size'")
        raise ValueError(_other_way_round(self._owner, "RNN", self.layer.name))

    @abstractmethod
    def _initial(self, matrix: Tensor) -> Tensor:
        """The vector that training starts with, of shape `(units,)`, for a kernel `(rest, units)`."""

    @abstractmethod
    def _effective(self, matrix: Tensor, vector: keras.Variable, training: bool | None) -> Tensor:
        """The effective kernel `(rest, units)` from the stored one."""

    def fold(self) -> keras.layers.Layer:
        """The plain layer with the effective kernel of inference baked in: for export, quantization and LoRA.

        A new layer of the wrapped one's type, name and config; the wrapper and its layer stay as they are.

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
        """The layer inside, with the effective kernel, by that name."""
        if not self.built:
            raise ValueError(f"{self._owner}: fold needs a built layer. Received: {self.name!r} (call it once before).")
        self._refuse_what_replaces_the_kernel()
        folded = type(self.layer).from_config(self.layer.get_config() | {"name": name})
        folded.build_from_config(self.layer.get_build_config())
        values = {id(weight): value for weight, value in self._effective_kernels(training=False)}
        for new, old in zip(folded.variables, self.layer.variables, strict=True):
            new.assign(ops.copy(values.get(id(old), old.value)))  # JAX would share the buffer, and training frees it
        return folded

    def _effective_kernels(self, training: bool | None) -> list[tuple[keras.Variable, Tensor]]:
        """Each re-parametrized weight with its effective value."""
        effective = []
        for kernel, vector in zip(self._kernels, self._vectors, strict=True):
            matrix = self._effective(_wide_matrix(kernel), vector, training)
            effective.append((kernel.weight, kernel.from_matrix(matrix)))
        return effective

    def _add_vector(self, kernel: Kernel) -> keras.Variable:
        """The weight that holds a value for each unit of `kernel`."""
        prefix = f"{kernel.weight.name}_" if len(self._kernels) > 1 else ""
        return self.add_weight(
            name=prefix + self._vector_name,
            shape=(kernel.units,),
            initializer=lambda shape, dtype: ops.cast(self._initial(_wide_matrix(kernel)), dtype),
            dtype=at_least_float32(kernel.weight.dtype),
            trainable=self._vector_is_trained,
            autocast=False,
            aggregation="none" if self._vector_is_trained else "only_first_replica",
        )

    def _refuse_a_second_wrapper(self) -> None:
        """A layer in two wrappers would be two layers after loading, one of them without weights."""
        if self.layer in _WRAPPERS:
            gc.collect()  # A wrapper that nobody holds any more lives on in cycles of Keras' own.
        other = _WRAPPERS.get(self.layer, lambda: None)()
        if other is not None:
            raise ValueError(
                f"{self._owner}: layer must be in one wrapper only. Received: layer={self.layer.name!r}, "
                f"wrapped by {other.name!r} (call that wrapper in both places to share it)."
            )
        _WRAPPERS[self.layer] = ref(self)

    def _refuse_a_second_formula(self) -> None:
        """Of two formulas for one weight, the inner would undo the outer."""
        inner = [part for part in all_layers(self.layer) if isinstance(part, KernelReparametrization)]
        taken = {id(kernel.weight): part for part in inner for kernel in part._kernels}
        for kernel in self._kernels:
            if id(kernel.weight) in taken:
                raise ValueError(
                    f"{self._owner}: a weight must be re-parametrized once only. Received: "
                    f"weight_name={kernel.weight.name!r}, which {taken[id(kernel.weight)].name!r} re-parametrizes "
                    "(two wrappers may share a layer if weight_name tells them different weights)."
                )

    def _refuse_what_replaces_the_kernel(self) -> None:
        """A layer with LoRA or of a quantized dtype does not read the weight that is re-parametrized."""
        for kernel in self._kernels:
            quantized, lora = kernel.owner.quantization_mode, getattr(kernel.owner, "lora_enabled", False)
            if quantized or lora:
                raise ValueError(
                    f"{self._owner}: the wrapped layer must read its {kernel.weight.name} as it is. Received: "
                    f"layer={kernel.owner.name!r} with quantization_mode={quantized!r}, lora_enabled={lora} "
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
        if "go_backwards" in config:  # Bidirectional makes its second layer so
            raise ValueError(_other_way_round(cls.__name__, "Bidirectional", config["layer"]["config"]["name"]))
        return super().from_config(with_kept_axis(config), custom_objects)


def _wide_matrix(kernel: Kernel) -> Tensor:
    """The stored kernel as a matrix in float32 or wider."""
    value = kernel.weight.value
    return kernel.to_matrix(ops.cast(value, at_least_float32(keras.backend.standardize_dtype(value.dtype))))


def _keep_from_quantization(layer: Any, wrapper: ref) -> None:
    """Lets `layer.quantize` say that it cannot, as long as the wrapper lives.

    `Model.quantize` passes the wrapper by and asks the layer inside; of one that says so it warns, and goes on.
    """
    quantize = layer.quantize

    def refuse(*args: Any, **kwargs: Any) -> None:
        around = wrapper()
        if around is None:
            return quantize(*args, **kwargs)
        raise NotImplementedError(
            f"{type(around).__name__}: a wrapped layer is not quantized. Received: {layer.name!r} in {around.name!r} "
            "(quantize `keras_norm.models.fold_weights(model)`, or the plain layer that fold() gives)."
        )

    layer.quantize = refuse


def _other_way_round(owner: str, outer: str, name: str) -> str:
    """What is said to who puts a wrapper into a layer that has to be inside."""
    return (
        f"{owner}: the wrapper must stand around {outer}, not in it. "
        f"Received: {outer} of a wrapped layer={name!r} (write {owner}({outer}(...)))."
    )


def _takes_several_shapes(build: Callable[..., None]) -> bool:
    """Whether a layer cannot be built from the shape of its first input, as attention cannot."""
    required = [p for p in inspect.signature(build).parameters.values() if p.default is p.empty and p.kind in NAMED]
    return len(required) > 1


def _symbolic(arguments: Any) -> Any:
    """The arguments of a call with tensors that have a shape and a dtype alone."""

    def without_values(x: Any) -> Any:
        return keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype)) if hasattr(x, "shape") else x

    return keras.tree.map_structure(without_values, arguments)
