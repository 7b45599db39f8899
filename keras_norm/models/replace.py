"""Replaces the normalizations of a model."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras.layers import Layer

from keras_norm import arguments
from keras_norm.layers import GlobalResponseNormalization, affine
from keras_norm.layers.base import Normalization
from keras_norm.layers.channel import ChannelLayer
from keras_norm.models.conversion import convert
from keras_norm.models.predicates import is_along_axes, is_frozen, is_group_normalization, is_normalization

OWNER = "replace_normalization"
COPIED_ARGUMENTS = ("name", "dtype", "trainable", "center", "scale", *affine.ARGUMENTS)


def replace_normalization(
    model: keras.Model,
    to: Layer | Callable[[Layer], Layer],
    where: Callable[[Layer], bool] | None = None,
    *,
    in_place: bool = False,
) -> keras.Model:
    """Returns a copy of a model in which every normalization is replaced by another one.

    New normalizations get the weights of equal name and shape: gamma, beta and moving statistics. A warning lists
    weights whose shape differs. All other weights are copied. The result has the class of the model with its methods,
    `train_step` and `compile`. It is not compiled, and `model` does not change.

    Args:
        model: a built model: Sequential, Functional or subclassed. Normalizations inside nested models, layers and
            wrappers are replaced too, and a shared layer stays shared. Your own classes are copied by their
            `get_config` and `from_config`.
        to: the new normalization:
            a layer as a template, such as `GroupNormalization(32)`. Name, dtype policy, `trainable`, center, scale, the
            channel axis, and the initializers, regularizers and constraints of gamma and beta come from the old layer.
            `LayerNormalization` and `RMSNormalization` keep their own axes, which must include that channel axis.
            Groups that do not divide the channels are reduced to the largest divisor, with a warning;
            a function of the old layer that returns the new one, or the old one to keep it.
        where: a function of a normalization that returns whether to replace it. By default all normalizations of Keras
            and of this package are replaced, including `DynamicTanh`. `GlobalResponseNormalization` is kept, because it
            is used in addition to a normalization.
        in_place: whether to convert the model itself, to save memory or because its class cannot be copied. Compile the
            model again, and other models that share its layers.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is not a Keras model, `to` is neither a layer nor a function, or the function does not
            return a layer; if the new layer takes a second input, or is `ThresholdedLinearUnit`.
        ValueError: if the model is not built or cannot be copied, or `to` returns a layer that holds the old one, or
            the same layer twice; if the axes of a template do not include the channel axis of an old layer.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.BatchNormalization()])
        >>> new = replace_normalization(model, kn.GroupNormalization(groups=3))
        >>> new.layers[1].groups, new.layers[1].name == model.layers[1].name
        (3, True)
    """
    if isinstance(to, type) or not callable(to):
        hint = f"give a layer, {to.__name__}(...)" if isinstance(to, type) else "such as GroupNormalization(32)"
        raise TypeError(f"{OWNER}: to must be a layer or a function of the old layer. Received: to={to!r} ({hint}).")
    reduced_groups: dict[str, tuple[int, int, int]] = {}
    if isinstance(to, Layer):
        _check_template(to)
    create = partial(_from_template, to, reduced_groups=reduced_groups) if isinstance(to, Layer) else to

    def replacement(layer: Layer) -> Layer:
        new = create(layer)
        if not isinstance(new, Layer):
            raise TypeError(f"{OWNER}: to must return a layer. Received: {new!r} for {layer.name!r}.")
        _check_new(new)
        return new

    def is_selected(layer: Layer) -> bool:
        return is_normalization(layer) and (
            not isinstance(layer, GlobalResponseNormalization) if where is None else where(layer)
        )

    result = convert(OWNER, model, is_selected, replacement, in_place)
    if reduced_groups:
        each = ", ".join(f"{name!r} {groups} for {c} channels" for name, (_, groups, c) in reduced_groups.items())
        requested = next(iter(reduced_groups.values()))[0]
        warnings.warn(f"{OWNER}: groups={requested} do not divide the channels of all layers: {each}.", stacklevel=2)
    return result


def _from_template(template: Layer, old: Layer, reduced_groups: dict[str, tuple[int, int, int]]) -> Layer:
    """A layer like `template` with arguments of `old`. Where groups are reduced, adds them to `reduced_groups`."""
    norm = old.layer if is_frozen(old) else old
    config, old_config = template.get_config(), norm.get_config()
    copied = set(COPIED_ARGUMENTS)
    if isinstance(norm, GlobalResponseNormalization) != isinstance(template, GlobalResponseNormalization):
        copied -= set(affine.ARGUMENTS)  # its gamma and beta are those of a residual
    kept = copied & config.keys()
    config |= {name: value for name, value in old_config.items() if name in kept and arguments.is_set(name, value)}
    channel_axis = arguments.single_axis(norm.axis)
    if channel_axis is not None and not is_along_axes(template):
        config["axis"] = channel_axis
    elif channel_axis is not None and old.built:
        _check_axes(template, config["axis"], old, channel_axis)
    if is_group_normalization(template) and old.built:
        channels = old.get_build_config()["input_shape"][config["axis"]]
        groups = _largest_divisor(channels, config["groups"])
        if groups != config["groups"]:
            reduced_groups[old.name] = config["groups"], groups, channels
        config["groups"] = groups
    return type(template).from_config(config)


def _check_template(to: Layer) -> None:
    """Raises an error for templates without the arguments of a normalization."""
    _check_new(to)
    if not is_normalization(to) or is_frozen(to):
        raise TypeError(
            f"{OWNER}: a template must be a normalization. Received: to={to!r} (a function of the old layer may return "
            "any layer: to=lambda layer: ...; freeze_batch_normalization freezes)."
        )


def _check_new(new: Any) -> None:
    """Raises an error for layers of this package that are not normalizations of one input."""
    if isinstance(new, ChannelLayer) and not isinstance(new, Normalization):
        raise TypeError(
            f"{OWNER}: to must be or return a layer that normalizes its only input. Received: {new!r} "
            "(ConditionalNormalization and AdaptiveInstanceNormalization take a second input, and "
            "ThresholdedLinearUnit is an activation)."
        )


def _check_axes(template: Layer, axis: Any, old: Layer, channel_axis: int) -> None:
    """Raises an error if the axes do not include the channel axis of the old layer."""
    rank = len(old.get_build_config()["input_shape"])
    axes = arguments.resolve_axes(OWNER, -1 if axis is None else axis, rank)
    if arguments.resolve_axis(OWNER, channel_axis, rank) not in axes:
        kind = type(template).__name__
        raise ValueError(
            f"{OWNER}: gamma and beta of the template must run along the channel axis of the old layer. Received: "
            f"{kind} with axis={axis} for {old.name!r} with axis={channel_axis} "
            f"(give {kind}(axis={channel_axis}), or a function of the old layer)."
        )


def _largest_divisor(channels: int, groups: int) -> int:
    """The largest divisor of `channels` up to `groups`. Keeps -1, which means one group per channel."""
    if groups == -1:
        return groups
    return next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0)
