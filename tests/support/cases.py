"""One line per layer: its name, how it is made, and its set, stated a second time on index tuples."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest

import keras_norm as kn
from support import reference, second_inputs

CHANNELS = 6
EPSILON = 1e-3


def same_channel(i, k, shape, axis):
    return i[axis] == k[axis]


def same_sample(i, k, shape, axis):
    return i[0] == k[0]


def same_sample_and_channel(i, k, shape, axis):
    return same_sample(i, k, shape, axis) & same_channel(i, k, shape, axis)


def same_elsewhere(i, k, shape, axis):
    return np.all([i[a] == k[a] for a in range(len(shape)) if a != axis], axis=0)


def same_elsewhere_but_axis_1(i, k, shape, axis):
    return np.all([i[a] == k[a] for a in range(len(shape)) if a not in (1, axis)], axis=0)


def same_group(groups):
    def same(i, k, shape, axis):
        return (i[0] == k[0]) & (i[axis] * groups // shape[axis] == k[axis] * groups // shape[axis])

    return same


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layer that standardizes over sets of its input, and what it computes before gamma and beta."""

    name: str
    make: Callable[..., Any]
    same: Callable[..., bool]
    """Whether position k is in S_i: `same(i, k, shape, axis)`."""
    any_axis: bool = True
    """Whether `axis` is free. A case with fixed axes has the channels last."""
    fixed_axes: tuple[int, ...] = ()
    """Axes beside the channels whose sizes the weights have."""
    groups: int = 1
    """What must divide the number of channels."""
    over_batch: bool = False
    """Whether sets run through the batch, so that inference uses moving statistics."""
    mixed: tuple[float, Callable[..., bool]] | None = None
    """The share of a second set's output, and that set."""

    @property
    def bare(self):
        """Whether y can be x standardized over one set, without gamma and beta."""
        return self.centered and self.mixed is None

    standardizes = True
    """Whether h is of the order of 1, whatever the scale of the input."""
    centered = True
    """Whether the mean is subtracted."""
    masks = True
    """Whether a mask takes positions out of the sets."""
    has_gamma = has_beta = has_weights = True

    def h(self, x, axis, mask=None, epsilon=EPSILON):
        """What gamma scales and beta shifts, at each position, in float64, by the loop over S_i."""
        h = reference.standardize(x, self.same, axis, epsilon, mask)
        if self.mixed is None:
            return h
        share, same = self.mixed
        return (1 - share) * h + share * reference.standardize(x, same, axis, epsilon, mask)

    def affine_axes(self, axis):
        """The axes that gamma and beta run along."""
        return (*self.fixed_axes, axis)

    def applies(self, shape, axis):
        """Whether the layer can have the channels on that axis."""
        return self.any_axis or (axis == len(shape) - 1 and len(shape) > 1 + len(self.fixed_axes))

    def affine(self, shape, axis):
        """Values of gamma and beta that differ along their axes, shaped like the weights."""
        sizes = [shape[a] for a in self.affine_axes(axis)]
        rng = np.random.default_rng(7)
        gamma, beta = rng.uniform(0.5, 2.0, sizes), rng.uniform(-1.0, 1.0, sizes)
        return gamma if self.has_gamma else np.ones(sizes), beta if self.has_beta else np.zeros(sizes)

    def built(self, shape, axis=-1, **kwargs):
        """The layer, built, with those gamma and beta."""
        layer = self.make(axis=axis, **kwargs)
        layer.build(shape)
        gamma, beta = self.affine(shape, axis % len(shape))
        if self.has_gamma:
            self.inner(layer).gamma.assign(gamma)
        if self.has_beta:
            self.inner(layer).beta.assign(beta)
        return layer

    def expected(self, x, axis=-1, mask=None):
        """gamma h + beta for the weights of `built`."""
        axis %= x.ndim
        axes = self.affine_axes(axis)
        gamma, beta = (reference.along(values, axes, x.ndim) for values in self.affine(x.shape, axis))
        return gamma * self.h(x, axis, mask) + beta

    def beta(self, shape):
        """beta at each position of an input with the channels last."""
        axis = len(shape) - 1
        return np.broadcast_to(reference.along(self.affine(shape, axis)[1], self.affine_axes(axis), axis + 1), shape)

    def inner(self, layer):
        """The layer that holds gamma and beta."""
        return layer

    def config(self, layer):
        return layer.get_config()

    def takes(self, argument):
        """Whether the layer has that argument of the family."""
        return True

    def __str__(self):
        return self.name


class AboutZero(Case):
    """A layer that divides by the root mean square of its sets."""

    centered = False

    def h(self, x, axis, mask=None, epsilon=EPSILON):
        return reference.scale(x, self.same, axis, epsilon, mask)


class RMS(AboutZero):
    """A layer without beta."""

    has_beta = False

    def takes(self, argument):
        return not argument.startswith("beta")


class LearnedEpsilon(AboutZero):
    """A layer with a trained epsilon per channel, some of them negative."""

    def h(self, x, axis, mask=None, epsilon=EPSILON):
        trained = reference.along(np.abs(self.trained(x.shape[axis])), (axis,), x.ndim)
        return reference.scale(x, self.same, axis, epsilon + trained, mask)

    def trained(self, channels):
        return np.linspace(-1.0, 2.0, channels)

    def built(self, shape, axis=-1, **kwargs):
        layer = super().built(shape, axis, **kwargs)
        layer.epsilon_c.assign(self.trained(shape[axis]))
        return layer


class Switchable(Case):
    """A layer with a mixture of the statistics of three sets."""

    bare = False
    logits = np.array([[0.5, -0.2, 1.0], [1.5, 0.1, -0.6]])

    def h(self, x, axis, mask=None, epsilon=EPSILON):
        shares = np.exp(self.logits) / np.exp(self.logits).sum(1, keepdims=True)
        mean, variance = np.zeros(x.shape), np.zeros(x.shape)
        for k, same in enumerate((same_sample_and_channel, same_sample, same_channel)):
            mean += shares[0, k] * reference.statistic(x, same, axis, np.mean, mask)
            variance += shares[1, k] * reference.statistic(x, same, axis, np.var, mask)
        h = (np.asarray(x, "float64") - mean) / np.sqrt(variance + epsilon)
        return h if mask is None else np.where(reference.spread(mask, x.shape), h, 0.0)

    def built(self, shape, axis=-1, **kwargs):
        layer = super().built(shape, axis, **kwargs)
        layer.mean_logits.assign(self.logits[0])
        layer.variance_logits.assign(self.logits[1])
        return layer


class GlobalResponse(AboutZero):
    """A layer that scales by the share of a channel in the response of its sample, and adds the input."""

    standardizes = False

    def h(self, x, axis, mask=None, epsilon=EPSILON):
        kept = True if mask is None else reference.spread(mask, x.shape)
        x = np.where(kept, np.asarray(x, "float64"), 0.0)
        norms = np.sqrt((x**2).sum(tuple(a for a in range(1, x.ndim) if a != axis), keepdims=True))
        return x * norms / (norms.mean(axis, keepdims=True) + epsilon)

    def expected(self, x, axis=-1, mask=None):
        kept = True if mask is None else reference.spread(mask, x.shape)
        return super().expected(x, axis, mask) + np.where(kept, x, 0.0)


class DynamicTanh(AboutZero):
    """A layer without sets."""

    standardizes = masks = False

    def h(self, x, axis, mask=None, epsilon=EPSILON):
        return np.tanh(0.5 * np.asarray(x, "float64"))

    def takes(self, argument):
        return argument != "epsilon"


class PerSample(Case):
    """A layer whose gamma and beta differ from sample to sample: it has a second input."""

    bare = False

    def affine_axes(self, axis):
        return (0, axis)

    def affine(self, shape, axis):
        return [values[np.arange(shape[0]) % second_inputs.KINDS] for values in self.rows(shape[axis])]

    def rows(self, channels):
        """gamma and beta of each kind of sample."""
        return second_inputs.gamma_and_beta(channels)

    def beta(self, shape):
        beta = self.affine(shape, len(shape) - 1)[1]
        return np.broadcast_to(reference.along(beta, (0, len(shape) - 1), len(shape)), shape)

    def takes(self, argument):
        return argument in ("epsilon", "name", "dtype")

    def config(self, layer):
        # Keras adds to an inner layer's config the shape that it was built for.
        return {**layer.get_config(), "layer": self.inner(layer).get_config()}


class Conditional(PerSample):
    """A layer inside a `ConditionalNormalization`."""

    def built(self, shape, axis=-1, **kwargs):
        layer = self.make(axis=axis, **kwargs)
        layer.build(shape)
        gamma, beta = self.rows(shape[axis])
        for by, values in ((layer.layer.gamma_map, gamma - 1.0), (layer.layer.beta_map, beta)):
            by.weights[0].assign(values.reshape(by.weights[0].shape))
        return layer

    def inner(self, layer):
        return layer.layer.normalization


class Adaptive(PerSample):
    """A layer that takes gamma and beta from a style."""

    has_weights = False

    def built(self, shape, axis=-1, **kwargs):
        layer = self.make(axis=axis, **kwargs)
        layer.build(shape)
        return layer

    def inner(self, layer):
        return layer.layer


class MeanOnly(Case):
    """A layer that subtracts the mean of its sets and divides by nothing."""

    standardizes = has_gamma = False

    def takes(self, argument):
        return argument != "epsilon" and not argument.startswith("gamma")

    def h(self, x, axis, mask=None, epsilon=EPSILON):
        return reference.center(x, self.same, axis, mask)


class Frozen(Case):
    """A layer that uses fixed statistics, whatever its input."""

    standardizes = masks = False

    def statistics(self, channels):
        return np.linspace(-1.0, 3.0, channels), np.linspace(0.5, 9.0, channels)

    def h(self, x, axis, mask=None, epsilon=EPSILON):
        mean, variance = (reference.along(s, (axis,), x.ndim) for s in self.statistics(x.shape[axis]))
        return (np.asarray(x, "float64") - mean) / np.sqrt(variance + epsilon)

    def built(self, shape, axis=-1, **kwargs):
        layer = super().built(shape, axis, **kwargs)
        mean, variance = self.statistics(shape[axis])
        self.inner(layer).moving_mean.assign(mean)
        self.inner(layer).moving_variance.assign(variance)
        return layer

    def inner(self, layer):
        return layer.layer

    def config(self, layer):
        # Keras adds to an inner layer's config the shape that it was built for.
        return {**layer.get_config(), "layer": layer.layer.get_config()}


def layer_over_1_and(axis=-1, **kwargs):
    return kn.LayerNormalization([1, axis], **kwargs)


def layer_over_the_sample(axis=-1, **kwargs):
    return kn.LayerNormalization(None, **kwargs)


def frozen(**kwargs):
    return kn.FrozenBatchNormalization(kn.BatchNormalization(**kwargs))


def rms_over_1_and(axis=-1, **kwargs):
    return kn.RMSNormalization([1, axis], **kwargs)


def conditional(axis=-1, condition="classes", name=None, **kwargs):
    group = kn.GroupNormalization(2, axis, center=False, scale=False, **kwargs)
    num_classes = second_inputs.KINDS if condition == "classes" else None
    layer = kn.ConditionalNormalization(group, num_classes, kernel_size=1)
    return second_inputs.WithCondition(layer, condition, name=name)


def adaptive(axis=-1, epsilon=EPSILON, name=None, **kwargs):
    return second_inputs.WithStyle(kn.AdaptiveInstanceNormalization(axis, epsilon, **kwargs), name=name)


def same_channel_and_run(size):
    def same(i, k, shape, axis):
        return (i[axis] == k[axis]) & (i[0] // size == k[0] // size)

    return same


def never(i, k, shape, axis):
    raise AssertionError("it has no sets")


CASES = [
    Case(name="group(1)", make=partial(kn.GroupNormalization, 1), same=same_sample),
    Case(name="group(2)", make=partial(kn.GroupNormalization, 2), same=same_group(2), groups=2),
    Case(name="group(3)", make=partial(kn.GroupNormalization, 3), same=same_group(3), groups=3),
    Case(name="group(-1)", make=partial(kn.GroupNormalization, -1), same=same_sample_and_channel),
    Case(name="instance", make=kn.InstanceNormalization, same=same_sample_and_channel),
    Case(name="layer", make=kn.LayerNormalization, same=same_elsewhere),
    Case(
        name="layer(1, axis)",
        make=layer_over_1_and,
        same=same_elsewhere_but_axis_1,
        any_axis=False,
        fixed_axes=(1,),
    ),
    Case(name="layer(None)", make=layer_over_the_sample, same=same_sample, any_axis=False),
    Case(name="batch", make=kn.BatchNormalization, same=same_channel, over_batch=True),
    Case(name="batch_renorm", make=kn.BatchRenormalization, same=same_channel, over_batch=True),
    Case(
        name="batch_instance",
        make=partial(kn.BatchInstanceNormalization, rho_initializer=keras.initializers.Constant(0.25)),
        same=same_channel,
        over_batch=True,
        mixed=(0.75, same_sample_and_channel),
    ),
    MeanOnly(name="mean_only", make=kn.MeanOnlyBatchNormalization, same=same_channel, over_batch=True),
    Frozen(name="frozen", make=frozen, same=same_channel),
    RMS(name="rms", make=partial(kn.RMSNormalization, epsilon=EPSILON), same=same_elsewhere),
    RMS(
        name="rms(1, axis)",
        make=partial(rms_over_1_and, epsilon=EPSILON),
        same=same_elsewhere_but_axis_1,
        any_axis=False,
        fixed_axes=(1,),
    ),
    AboutZero(
        name="filter_response",
        make=partial(kn.FilterResponseNormalization, epsilon=EPSILON),
        same=same_sample_and_channel,
    ),
    LearnedEpsilon(
        name="filter_response(learned)",
        make=partial(kn.FilterResponseNormalization, epsilon=EPSILON, learned_epsilon=True),
        same=same_sample_and_channel,
    ),
    Case(
        name="ghost_batch(2)",
        make=partial(kn.GhostBatchNormalization, 2),
        same=same_channel_and_run(2),
        over_batch=True,
    ),
    Switchable(name="switchable", make=kn.SwitchableNormalization, same=same_channel, over_batch=True),
    Conditional(name="conditional(group(2))", make=conditional, same=same_group(2), groups=2),
    Adaptive(name="adaptive_instance", make=adaptive, same=same_sample_and_channel),
    GlobalResponse(
        name="global_response",
        make=partial(kn.GlobalResponseNormalization, epsilon=EPSILON),
        same=same_sample_and_channel,
    ),
    DynamicTanh(name="dynamic_tanh", make=kn.DynamicTanh, same=never),
]


OTHER_CONDITIONS = [
    Conditional(
        name=f"conditional({condition})",
        make=partial(conditional, condition=condition),
        same=same_group(2),
        groups=2,
    )
    for condition in ("vector", "map")
]
"""Where the kind of the condition matters, these stand beside the classes of `CASES`."""


def every_case(others=(), **fields):
    """Parametrizes a test with all cases that have these fields, and the others."""
    chosen = [case for case in (*CASES, *others) if all(getattr(case, name) == value for name, value in fields.items())]
    return pytest.mark.parametrize("case", chosen, ids=str)


def model_of_all(cases=CASES):
    """A model with an output for each case, whose only unknown size is the batch."""
    inputs, outputs = keras.Input((3, 4, CHANNELS)), {}
    for k, case in enumerate(cases):
        outputs[f"y{k}"] = case.built((None, 3, 4, CHANNELS), name=f"case{k}")(inputs)
    return keras.Model(inputs, outputs)


def random_input(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).normal(2.0, 3.0, shape).astype(dtype)


def shapes_with_channels():
    """Ranks 2 to 5 with the six channels on each axis but the batch: (shape, axis)."""
    for rank in range(2, 6):
        for axis in range(1, rank):
            sizes = [3, 2, 5, 2][: rank - 1]
            sizes.insert(axis, CHANNELS)
            yield tuple(sizes), axis
