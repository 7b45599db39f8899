"""One normalization in place of another, all over a model."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras.layers import Layer

from keras_norm.layers import GroupNormalization, LayerNormalization
from keras_norm.layers.frozen import FrozenBatchNormalization
from keras_norm.models.conversion import convert
from keras_norm.models.predicates import is_normalization

GROUPED = (GroupNormalization, keras.layers.GroupNormalization)
WITHOUT_CHANNEL_AXIS = (LayerNormalization, keras.layers.LayerNormalization, keras.layers.RMSNormalization)
OF_WEIGHTS = [f"{w}_{kind}" for w in ("beta", "gamma") for kind in ("initializer", "regularizer", "constraint")]
CARRIED = ("name", "dtype", "trainable", "center", "scale", *OF_WEIGHTS)


def replace_normalization(
    model: keras.Model,
    to: Layer | type[Layer] | Callable[[Layer], Layer],
    where: Callable[[Layer], bool] | None = None,
    *,
    in_place: bool = False,
) -> keras.Model:
    """A copy of a model with another normalization in place of its own.

    All other weights are carried over, and of the normalizations those of equal name and shape: gamma and beta,
    moving statistics. The class of the model stays, with its methods, its `train_step` and its `compile`; the result
    is not compiled, and the model stays as it was.

    Args:
        model: a built model: Sequential, Functional or subclassed. Normalizations are found in models, layers and
            wrappers inside it too, and a shared layer stays shared. A class of yours is copied through its
            `get_config` and `from_config`.
        to: what to put there:
            a layer as a template, such as `GroupNormalization(32)`. The old layer gives name, dtype policy,
            `trainable`, center, scale, the initializers, regularizers and constraints of gamma and beta, and the
            channel axis. Where groups do not divide the channels the largest divisor below is taken, and a warning
            lists where;
            a class: as a template, and the old layer gives all other arguments that both have, such as epsilon;
            a function of the old layer, whose result is taken as it is. It may return the old layer, to keep it.
        where: a function of a normalization, True if it is to be replaced. By default all of Keras and of this
            package are: batch, group, layer, instance, root mean square.
        in_place: whether to convert the model itself, to save memory, or because its class cannot be copied. Compile
            it again, and other models that share these layers.

    Returns:
        The new model.

    Raises:
        TypeError: if the model is no Keras model, or `to` gives no layer.
        ValueError: if the model is not built or cannot be copied, or `to` gives a layer that holds the old one, or
            one for several.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.BatchNormalization()])
        >>> new = replace_normalization(model, GroupNormalization(groups=3))
        >>> new.layers[1].groups, new.layers[1].name == model.layers[1].name
        (3, True)
    """
    owner = "replace_normalization"
    lowered: dict[str, tuple[int, int, int]] = {}
    make = _follow(to, lowered) if isinstance(to, (Layer, type)) else to
    if not callable(make):
        raise TypeError(f"{owner}: to must be a layer, a class of layers or a function. Received: to={to!r}.")

    def change(layer: Layer) -> Layer:
        new = make(layer)
        if not isinstance(new, Layer):
            raise TypeError(f"{owner}: to must give a layer. Received: {new!r} for {layer.name!r}.")
        return new

    def chosen(layer: Layer) -> bool:
        return is_normalization(layer) and (where is None or where(layer))

    result = convert(owner, model, chosen, change, in_place)
    if lowered:
        each = ", ".join(f"{name!r} {groups} for {c} channels" for name, (_, groups, c) in lowered.items())
        wanted = next(iter(lowered.values()))[0]
        warnings.warn(f"{owner}: groups={wanted} do not divide the channels of all layers: {each}.", stacklevel=2)
    return result


def _follow(to: Layer | type[Layer], lowered: dict[str, tuple[int, int, int]]) -> Callable[[Layer], Layer]:
    """The function of the old layer that a template or a class stands for; it notes where it lowers groups."""
    template = to() if isinstance(to, type) else to

    def make(old: Layer) -> Layer:
        wrapped = old.layer if isinstance(old, FrozenBatchNormalization) else old
        given, config = wrapped.get_config(), template.get_config()
        shared = given.keys() & config.keys() - {"axis"}
        config |= {name: given[name] for name in shared if isinstance(to, type) or name in CARRIED}
        channel_axis = _channel_axis(wrapped)
        if channel_axis is not None and not isinstance(template, WITHOUT_CHANNEL_AXIS):
            config["axis"] = channel_axis
        if isinstance(template, GROUPED) and old.built:
            channels = old.get_build_config()["input_shape"][config["axis"]]
            groups = _largest_divisor(channels, config["groups"])
            if groups != config["groups"]:
                lowered[old.name] = config["groups"], groups, channels
            config["groups"] = groups
        return type(template).from_config(config)

    return make


def _channel_axis(layer: Layer) -> int | None:
    """The axis that gamma and beta run along, if it is a single one."""
    axis: Any = layer.axis
    if isinstance(axis, int):
        return axis
    return axis[0] if axis is not None and len(axis) == 1 else None


def _largest_divisor(channels: int, groups: int) -> int:
    """The largest divisor of `channels` up to `groups`, and -1, one group a channel, as it is."""
    if groups == -1:
        return groups
    return next(g for g in range(min(groups, channels), 0, -1) if channels % g == 0)
