"""Lists the layers inside a layer."""

from collections.abc import Callable

from keras.layers import Layer

from keras_norm._keras import sublayers


def named_layers(layer: Layer, is_leaf: Callable[[Layer], bool] = lambda _: False) -> list[tuple[str, Layer]]:
    """Lists `layer` and the layers inside it with their paths, each layer once, outer before inner.

    Works like `named_modules` in torch: a path joins the names below `layer` by "/", and a shared layer keeps its first
    path. The walk does not enter layers for which `is_leaf` is true.
    """
    found: dict[int, tuple[str, Layer]] = {}
    stack = [("", layer)]
    while stack:
        path, current = stack.pop()
        if id(current) not in found:
            found[id(current)] = path, current
            if not is_leaf(current):
                stack += [(f"{path}/{inner.name}".lstrip("/"), inner) for inner in reversed(sublayers(current))]
    return list(found.values())


def all_layers(layer: Layer, is_leaf: Callable[[Layer], bool] = lambda _: False) -> list[Layer]:
    """Lists `layer` and the layers inside it, as in `named_layers`, without paths."""
    return [found for _, found in named_layers(layer, is_leaf)]
