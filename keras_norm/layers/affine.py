"""The arguments of gamma and beta: how they start, and what regularizes and constrains them."""

from typing import Any

import keras
from keras import constraints, initializers, regularizers

from keras_norm import arguments
from keras_norm.tensors import at_least_float32

ROLES: dict[str, Any] = {"initializer": initializers, "regularizer": regularizers, "constraint": constraints}
ARGUMENTS = [f"{kind}_{role}" for kind in ("beta", "gamma") for role in ROLES]


class Affine(keras.layers.Layer):
    """Abstract base of the layers with gammas and betas."""

    _sets_itself: frozenset[str] = frozenset()
    """The arguments of its bases that a layer does not take."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuses what a layer does not take before Python finds it given twice."""
        for name in sorted(cls._sets_itself & kwargs.keys()):
            raise ValueError(
                f"{cls.__name__}: {name} is no argument of this layer, which sets it itself. "
                f"Received: {name}={kwargs[name]!r} (leave it out)."
            )
        return super().__new__(cls, *args, **kwargs)

    def _set_affine(self, *values: Any) -> None:
        """Sets the attributes that `ARGUMENTS` names, in that order."""
        for name, value in zip(ARGUMENTS, values, strict=True):
            role = name.partition("_")[2]
            if role == "initializer":
                setattr(self, name, arguments.initializer(type(self).__name__, name, value))
            else:
                setattr(self, name, ROLES[role].get(value))

    def _affine_config(self) -> dict[str, Any]:
        """The entries of a config for these attributes."""
        return {name: ROLES[name.partition("_")[2]].serialize(getattr(self, name)) for name in ARGUMENTS}

    def _add_affine(self, name: str, shape: Any) -> keras.Variable:
        """A gamma or beta, as the end of its name says."""
        kind = name.rpartition("_")[2]
        return self._add_float32_weight(name, shape, **{role: getattr(self, f"{kind}_{role}") for role in ROLES})

    def _add_float32_weight(self, name: str, shape: Any, initializer: Any, **kwargs: Any) -> keras.Variable:
        """A weight in float32 or wider, which autocasting leaves alone."""
        kwargs |= {"dtype": at_least_float32(self.variable_dtype), "autocast": False}
        return self.add_weight(name=name, shape=tuple(shape), initializer=initializer, **kwargs)
