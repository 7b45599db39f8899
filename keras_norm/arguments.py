"""Argument validation. Error messages read `owner: rule. Received: ... (hint).`"""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_norm.tensors import Tensor, at_least_float32, cast, inferred_shape, known_shape


def integer(owner: str, name: str, value: Any) -> int:
    """`value` as an int."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be an integer. Received: {name}={value!r} ({type(value).__name__}).")
    return int(value)


def integer_or_several(owner: str, name: str, value: Any) -> int | Sequence[int]:
    """`value` as an int, or as a sequence of ints of the same type."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        kind: Any = type(value)  # a tuple stays a tuple in a config
        return kind(integer(owner, name, v) for v in value)
    return integer(owner, name, value)


def boolean(owner: str, name: str, value: Any) -> bool:
    """`value` as a bool."""
    if value not in (True, False):
        raise TypeError(f"{owner}: {name} must be True or False. Received: {name}={value!r} ({type(value).__name__}).")
    return bool(value)


def boolean_or_count(owner: str, name: str, value: Any) -> bool | int:
    """`value` as a bool or as a positive int. 1 is an int, not True."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if not isinstance(value, Integral):
        raise TypeError(
            f"{owner}: {name} must be True, False or an integer. Received: {name}={value!r} ({type(value).__name__})."
        )
    if value < 1:
        raise ValueError(f"{owner}: {name} must be positive if it is a number. Received: {name}={value}.")
    return int(value)


def initializer(owner: str, name: str, value: Any) -> Any:
    """`value` as an initializer. None is an error, although Keras would use a random initializer."""
    if value is None:
        raise TypeError(
            f"{owner}: {name} must be an initializer. Received: {name}=None (leave it out for the default)."
        )
    return keras.initializers.get(value)


def is_set(name: str, value: Any) -> bool:
    """Whether a config entry has a value. Keras stores None for initializers that were not passed."""
    return value is not None or not name.endswith("_initializer")


def positive_integer(owner: str, name: str, value: Any) -> int:
    """`value` as an int above 0."""
    if integer(owner, name, value) < 1:
        raise ValueError(f"{owner}: {name} must be positive. Received: {name}={value}.")
    return int(value)


def number(owner: str, name: str, value: Any) -> float:
    """`value` as a float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{owner}: {name} must be a number. Received: {name}={value!r} ({type(value).__name__}).")
    return float(value)


def positive(owner: str, name: str, value: Any, hint: str = "Keras' default is 1e-3") -> float:
    """`value` as a float above 0."""
    if not number(owner, name, value) > 0:
        raise ValueError(f"{owner}: {name} must be positive. Received: {name}={value} ({hint}).")
    return float(value)


def fraction(owner: str, name: str, value: Any) -> float:
    """`value` as a float from 0 to 1."""
    if not 0 <= number(owner, name, value) <= 1:
        raise ValueError(f"{owner}: {name} must lie in [0, 1]. Received: {name}={value}.")
    return float(value)


def number_of_groups(owner: str, groups: Any) -> int:
    """`groups` as an int: a positive number, or -1 for one group per channel."""
    groups = integer(owner, "groups", groups)
    if groups < 1 and groups != -1:
        raise ValueError(f"{owner}: groups must be positive, or -1 for one per channel. Received: groups={groups}.")
    return groups


def resolve_groups(owner: str, groups: int, channels: int, axis: int) -> int:
    """The number of groups for this number of channels on `axis`."""
    groups = number_of_groups(owner, groups)
    if groups == -1:
        return channels
    if channels % groups:
        divisors = ", ".join(str(d) for d in range(1, channels + 1) if channels % d == 0)
        raise ValueError(
            f"{owner}: groups must divide the channel axis. Received: groups={groups}, "
            f"axis={axis} with {channels} channels (divisors: {divisors})."
        )
    return groups


def resolve_groups_of_replicas(owner: str, synchronized: int | None, replicas: int) -> int:
    """The number of groups of `synchronized` replicas: 1 for the global batch (None) or a single replica."""
    if synchronized is None or replicas == 1:
        return 1
    if replicas % synchronized:
        divisors = ", ".join(str(d) for d in range(1, replicas + 1) if replicas % d == 0)
        raise ValueError(
            f"{owner}: synchronized must divide the number of replicas. "
            f"Received: synchronized={synchronized} on {replicas} replicas (divisors: {divisors})."
        )
    return replicas // synchronized


def check_runs_of_samples(owner: str, groups: int, axis: int, samples: int) -> None:
    """Raises an error if the samples do not split evenly into groups."""
    if axis == 0 or samples % groups:
        raise ValueError(
            f"{owner}: with an integer for synchronized the samples on axis 0 must split evenly into groups. "
            f"Received: {samples} samples, {groups} groups of replicas, axis={axis} (drop the remainder)."
        )


def rank_of(owner: str, input_shape: Sequence[int | None]) -> int:
    """The number of axes, at least two."""
    if len(input_shape) < 2:
        raise ValueError(
            f"{owner}: inputs must have a batch axis and at least one more. "
            f"Received: input_shape={tuple(input_shape)} (a single sample needs inputs[None])."
        )
    return len(input_shape)


def resolve_axis(owner: str, axis: Any, rank: int) -> int:
    """`axis` counted from 0."""
    axis = integer(owner, "axis", axis)
    if not -rank <= axis < rank:
        raise ValueError(
            f"{owner}: axis must be an axis of the input. "
            f"Received: axis={axis} for an input of rank {rank} (use {-rank} to {rank - 1})."
        )
    return axis % rank


def listed_axes(axis: int | Sequence[int]) -> list[int]:
    """One axis or several, as a list."""
    return list(axis) if isinstance(axis, Sequence) else [axis]


def single_axis(axis: int | Sequence[int] | None) -> int | None:
    """The axis if there is exactly one, also in a sequence; otherwise None."""
    axes = [] if axis is None else listed_axes(axis)
    return axes[0] if len(axes) == 1 else None


def resolve_axes(owner: str, axis: int | Sequence[int], rank: int) -> list[int]:
    """One axis or several, counted from 0 and sorted."""
    axes = sorted(resolve_axis(owner, a, rank) for a in listed_axes(axis))
    if len(set(axes)) < len(axes) or not axes:
        raise ValueError(
            f"{owner}: axis must name at least one axis, and each only once. "
            f"Received: axis={axis} for an input of rank {rank}."
        )
    return axes


def resolve_channel_axis(owner: str, axis: int, rank: int) -> int:
    """The channel axis, counted from 0, of an input whose axis 0 is the batch."""
    channel_axis = resolve_axis(owner, axis, rank)
    if channel_axis == 0:
        raise ValueError(
            f"{owner}: axis must not be 0, because samples are normalized separately. "
            f"Received: axis={axis} for an input of rank {rank} (inputs are (batch, ..., channels))."
        )
    return channel_axis


def check_style(owner: str, content_shape: Sequence[int | None], style_shape: Sequence[int | None], axis: int) -> None:
    """Raises an error unless rank, channels and samples of style and content agree (one sample always does)."""
    if len(style_shape) == len(content_shape):
        pairs = [(content_shape[a], style_shape[a]) for a in (0, axis)]
        samples_fit, channels_fit = (None in pair or pair[0] == pair[1] for pair in pairs)
        if channels_fit and (samples_fit or style_shape[0] == 1):
            return
    raise ValueError(
        f"{owner}: style must have the rank and the channels of the content, and its samples or one for all. Received: "
        f"content.shape={tuple(content_shape)}, style.shape={tuple(style_shape)}, axis={axis}."
    )


def input_spec(axes: Sequence[int], input_shape: Sequence[int | None]) -> keras.layers.InputSpec:
    """Accepts inputs of any rank with the same sizes along `axes` as `input_shape`.

    Weights lie along `axes`, in the order of the axes in `input_shape`. With a positive and a negative axis, the order
    may depend on the rank. Then only ranks with the same order are accepted.
    """
    rank, sizes = len(input_shape), {a: input_shape[a] for a in axes}
    front = max((a for a in axes if a >= 0), default=-1)
    back = min((a for a in axes if a < 0), default=0)
    if front >= 0 and back < 0 and front >= rank + back:
        return keras.layers.InputSpec(ndim=rank, axes=sizes)
    return keras.layers.InputSpec(min_ndim=max(2, front + 1 - back), axes=sizes)


def resolve_mask(owner: str, mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Broadcasts the mask to the shape of `x`. A mask of lower rank is broadcast over the trailing axes."""
    if mask is None:
        return None
    missing, pairs = len(x.shape) - len(mask.shape), zip(known_shape(mask), known_shape(x), strict=False)
    if missing < 0 or any(m not in (None, 1) and n not in (None, m) for m, n in pairs):
        raise ValueError(
            f"{owner}: mask must have the leading axes of the input. "
            f"Received: mask.shape={tuple(mask.shape)}, inputs.shape={tuple(x.shape)} "
            "(a mask over time of (batch, time, channels) inputs is (batch, time))."
        )
    mask = ops.reshape(ops.cast(mask, "bool"), (*inferred_shape(mask), *[1] * missing))
    return ops.broadcast_to(mask, ops.shape(x))


def resolve_weight(owner: str, name: str, value: Tensor | None, axes: Sequence[int], x: Tensor) -> Tensor | None:
    """Reshapes gamma, beta or other values along `axes` to broadcast against `x`."""
    if value is None:
        return None
    value, shape = ops.convert_to_tensor(value), known_shape(x)
    sizes = tuple(shape[a] for a in axes)
    if known_shape(value) != sizes:
        raise ValueError(
            f"{owner}: {name} must have one value per position along its axes. "
            f"Received: {name}.shape={known_shape(value)}, sizes={sizes} of axes={tuple(axes)}."
        )
    if axes[0] + len(axes) < len(shape):  # values along the trailing axes broadcast without a reshape
        value = ops.reshape(value, [size if a in axes else 1 for a, size in enumerate(shape)])
    return cast(value, at_least_float32(x.dtype))
