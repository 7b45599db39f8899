"""Observes, and may replace, what layers are called with and what they return."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from keras.layers import Layer


@contextmanager
def intercept(layers: Iterable[Layer], around: Callable[..., Any]) -> Iterator[None]:
    """Runs `around(layer, call, *args, **kwargs)` in place of each layer's `call(*args, **kwargs)`, in all threads.

    Past Keras' own bookkeeping of attributes: a layer that is built takes no new ones.
    """
    layers = list(layers)
    for layer in layers:
        object.__setattr__(layer, "call", wraps(layer.call)(partial(around, layer, layer.call)))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")
