"""One line a layer: its name, how it is made, and its set, said a second time on index tuples."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import reference

import keras_norm as kn


def same_channel(i, k, shape, axis):
    return i[axis] == k[axis]


def same_sample(i, k, shape, axis):
    return i[0] == k[0]


def same_sample_and_channel(i, k, shape, axis):
    return same_sample(i, k, shape, axis) and same_channel(i, k, shape, axis)


def same_elsewhere(i, k, shape, axis):
    return all(i[a] == k[a] for a in range(len(shape)) if a != axis)


def same_elsewhere_but_axis_1(i, k, shape, axis):
    return all(i[a] == k[a] for a in range(len(shape)) if a not in (1, axis))


def same_group(groups):
    def same(i, k, shape, axis):
        return i[0] == k[0] and i[axis] * groups // shape[axis] == k[axis] * groups // shape[axis]

    return same


@dataclass(frozen=True)
class Case:
    """A layer, and what it computes in training before gamma and beta."""

    name: str
    make: Callable[..., Any]
    same: Callable[..., bool]
    any_axis: bool = True
    over_batch: bool = False
    mixed: tuple[float, Callable[..., bool]] | None = None
    """The share of a second set's output, and that set."""

    def standardized(self, x, axis, epsilon, mask=None):
        """The layer's h at each position, in float64, by the loop over S_i."""
        h = reference.standardize(x, self.same, axis, epsilon, mask)
        if self.mixed is None:
            return h
        share, same = self.mixed
        return (1 - share) * h + share * reference.standardize(x, same, axis, epsilon, mask)

    def affine_axes(self, axis):
        """The axes that gamma and beta run along."""
        return (1, axis) if self.same is same_elsewhere_but_axis_1 else (axis,)

    def __str__(self):
        return self.name


def layer_over_1_and(axis=-1, **kwargs):
    return kn.LayerNormalization([1, axis], **kwargs)


def layer_over_the_sample(axis=-1, **kwargs):
    return kn.LayerNormalization(None, **kwargs)


CASES = [
    Case("group(1)", partial(kn.GroupNormalization, 1), same_sample),
    Case("group(2)", partial(kn.GroupNormalization, 2), same_group(2)),
    Case("group(3)", partial(kn.GroupNormalization, 3), same_group(3)),
    Case("group(-1)", partial(kn.GroupNormalization, -1), same_sample_and_channel),
    Case("instance", kn.InstanceNormalization, same_sample_and_channel),
    Case("layer", kn.LayerNormalization, same_elsewhere),
    Case("layer(1, axis)", layer_over_1_and, same_elsewhere_but_axis_1, any_axis=False),
    Case("layer(None)", layer_over_the_sample, same_sample, any_axis=False),
    Case("batch", kn.BatchNormalization, same_channel, over_batch=True),
    Case("batch_renorm", kn.BatchRenormalization, same_channel, over_batch=True),
    Case(
        "batch_instance",
        partial(kn.BatchInstanceNormalization, rho_initializer=keras.initializers.Constant(0.25)),
        same_channel,
        over_batch=True,
        mixed=(0.75, same_sample_and_channel),
    ),
]
CHANNELS = 6


def random_input(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(dtype)


def shapes_with_channels():
    """Ranks 2 to 5 with the six channels on each axis but the batch: (shape, axis)."""
    for rank in range(2, 6):
        for axis in range(1, rank):
            sizes = [3, 2, 5, 2][: rank - 1]
            sizes.insert(axis, CHANNELS)
            yield tuple(sizes), axis
