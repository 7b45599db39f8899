"""Initializers, regularizers and constraints of gamma and beta."""

from typing import Any

import keras
from keras import constraints, initializers, regularizers

from keras_norm import arguments
from keras_norm.tensors import at_least_float32

ROLES: dict[str, Any] = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}
ARGUMENTS = [f"{kind}_{role}" for kind in ("beta", "gamma") for role in ROLES]


class Affine(keras.layers.Layer):
    """Abstract base class of layers with gammas and betas."""

    _sets_itself: frozenset[str] = frozenset()
    """Arguments of the base classes that the layer sets and does not accept."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Rejects arguments in `_sets_itself`. Otherwise Python would report them as passed twice."""
        for name in sorted(cls._sets_itself & kwargs.keys()):
            raise ValueError(
                f"{cls.__name__}: {name} is not an argument of this layer, which sets it itself. "
                f"Received: {name}={kwargs[name]!r} (leave it out)."
            )
        return super().__new__(cls, *args, **kwargs)

    def _set_affine(self, *values: Any) -> None:
        """Sets the attributes named in `ARGUMENTS`, in that order."""
        for name, value in zip(ARGUMENTS, values, strict=True):
            role = name.partition("_")[2]
            if role == "initializer":
                setattr(self, name, arguments.initializer(type(self).__name__, name, value))
            else:
                setattr(self, name, ROLES[role].get(value))

    def _affine_config(self) -> dict[str, Any]:
        """The config entries of these attributes."""
        return {name: ROLES[name.partition("_")[2]].serialize(getattr(self, name)) for name in ARGUMENTS}

    def _add_affine(self, name: str, shape: Any) -> keras.Variable:
        """Adds a gamma or a beta. `name` ends in one of the two words."""
        kind = name.rpartition("_")[2]
        return self._add_float32_weight(name, shape, **{role: getattr(self, f"{kind}_{role}") for role in ROLES})

    def _add_float32_weight(self, name: str, shape: Any, initializer: Any, **kwargs: Any) -> keras.Variable:
        """Adds a weight in float32 or wider, without autocasting."""
        kwargs |= {"dtype": at_least_float32(self.variable_dtype), "autocast": False}
        return self.add_weight(name=name, shape=tuple(shape), initializer=initializer, **kwargs)
