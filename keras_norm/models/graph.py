"""How the layers of a model are connected, read from its config."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
from keras.layers import Layer

from keras_norm.models.copying import is_container

Output = tuple[str, int, int]
"""An output as Keras writes it: the layer's name, which of its calls, which output of the call."""


class Place(NamedTuple):
    """A layer that is called once, and the layers beside it that nothing else connects to."""

    layer: Layer
    before: Layer | None
    after: Layer | None


def places(model: keras.Model) -> list[Place]:
    """The place of each layer that `model`, with the models inside it, calls just once, and of no other."""
    calls: Counter[int] = Counter()
    found = []
    for container in {id(container): container for container in _containers(model)}.values():
        layers = {layer.name: layer for layer in container.layers}
        inputs, outputs = _graph(container)
        uses = Counter(output for taken in inputs.values() for output in taken) + Counter(outputs)
        taker = {output: name for (name, _), taken in inputs.items() for output in taken}
        calls.update(id(layers[name]) for name, _ in inputs if name in layers)
        for (name, call), taken in inputs.items():
            if name in layers:
                before = layers.get(taken[0][0]) if uses[taken[0]] == 1 else None
                output = (name, call, 0)
                after = layers.get(taker.get(output)) if uses[output] == 1 else None
                found.append(Place(layers[name], before, after))

    def once(layer: Layer | None) -> Layer | None:
        return layer if calls[id(layer)] == 1 else None

    return [Place(layer, once(before), once(after)) for layer, before, after in found if once(layer)]


def _containers(model: keras.Model) -> Iterator[keras.Model]:
    """The model and all models inside it."""
    yield model
    for layer in model.layers:
        if is_container(layer):
            yield from _containers(layer)


def _graph(model: keras.Model) -> tuple[dict[tuple[str, int], list[Output]], list[Output]]:
    """What each call of an operation takes, and what the model gives."""
    if isinstance(model, keras.Sequential):
        names = [layer.name for layer in model.layers]
        chain = [("", 0, 0), *((name, 0, 0) for name in names)]
        return {(name, 0): [output] for name, output in zip(names, chain, strict=False)}, chain[-1:]
    config = keras.Model(model.input, model.output).get_config()
    inputs = {
        (layer["name"], call): list(_outputs(node))
        for layer in config["layers"]
        for call, node in enumerate(layer["inbound_nodes"])
    }
    return inputs, list(_outputs(config["output_layers"]))


def _outputs(config: Any) -> Iterator[Output]:
    """All outputs that a part of a config names."""
    if isinstance(config, dict):
        for part in config.values():
            yield from _outputs(part)
    elif isinstance(config, (list, tuple)):
        if len(config) == 3 and [type(part) for part in config] == [str, int, int]:
            yield tuple(config)
        else:
            for part in config:
                yield from _outputs(part)
