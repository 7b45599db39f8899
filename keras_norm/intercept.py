"""Wraps the `call` of layers for a while, to observe or replace inputs and outputs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any

from keras.layers import Layer


@contextmanager
def intercept(layers: Iterable[Layer], around: Callable[..., Any]) -> Iterator[None]:
    """Runs `around(layer, call, *args, **kwargs)` in place of each layer's `call(*args, **kwargs)`, in all threads.

    Blocks may be nested. A layer with a `call` among its own attributes has it back when the block ends.
    """
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(_set_call, layer, vars(layer).get("call"))
            _set_call(layer, wraps(layer.call)(partial(around, layer, layer.call)))
        yield


def _set_call(layer: Layer, call: Callable[..., Any] | None) -> None:
    """Sets or deletes the attribute `call`. Bypasses Keras, which locks the attributes of a built layer."""
    if call is not None:
        object.__setattr__(layer, "call", call)
    elif "call" in vars(layer):
        object.__delattr__(layer, "call")
