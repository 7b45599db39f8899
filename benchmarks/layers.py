"""Each layer alone, forward and forward + backward, against keras.layers and the backend's own layers."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras

import keras_norm as kn
from benchmarks.backends import EPSILON, GROUPS, MOMENTUM, backend
from benchmarks.timing import Row, compare

LAYERS = {
    "batch": (kn.BatchNormalization, keras.layers.BatchNormalization),
    "group": (kn.GroupNormalization, keras.layers.GroupNormalization),
    "instance": (kn.InstanceNormalization, keras.layers.GroupNormalization),
    "layer": (kn.LayerNormalization, keras.layers.LayerNormalization),
}


def pair(name: str, groups: int = GROUPS, **options: Any) -> dict[str, keras.layers.Layer]:
    """Our layer and the equivalent layer of Keras."""
    ours, theirs = ({"epsilon": EPSILON, **options} for _ in range(2))
    if name == "batch":
        ours["momentum"] = theirs["momentum"] = MOMENTUM
    if name == "group":
        ours["groups"] = groups
    if name in ("group", "instance"):
        theirs["groups"] = groups if name == "group" else -1
    of_kn, of_keras = LAYERS[name]
    return {"keras_norm": of_kn(**ours), "keras.layers": of_keras(**theirs)}


def policy(dtype: str) -> str:
    """The dtype policy of Keras that computes in this type."""
    return dtype if dtype == "float32" else f"mixed_{dtype}"


def shape_of(x: Any) -> str:
    """The shape as text, such as 16x56x56x64."""
    return "x".join(map(str, x.shape))


def rows(names: Sequence[str], shapes: Sequence[tuple[int, ...]], dtype: str, mode: str, turns: int) -> Iterator[Row]:
    """The rows of all layers and shapes; on torch also with the channels on axis 1, the layout of its kernels."""
    for shape in shapes:
        for axis in (-1, 1) if keras.backend.backend() == "torch" else (-1,):
            placed = shape if axis == -1 else (shape[0], shape[-1], *shape[1:-1])
            # Drawn on the device. On the host, this would take longer than everything that is timed.
            drawn = (keras.random.normal(placed, 2.0, 3.0, seed=seed) for seed in range(2))
            x, dy = (keras.ops.cast(array, dtype) for array in drawn)
            for name in names:
                if axis == -1 or name != "layer":
                    yield from _rows(name, axis, x, dy, dtype, mode, turns)


def _rows(name: str, axis: int, x: Any, dy: Any, dtype: str, mode: str, turns: int) -> Iterator[Row]:
    keras.utils.clear_session()  # on torch, clears compiled functions, because a function is recompiled at most 8 times
    training = {"training": True} if name == "batch" else {}
    contenders = {}
    for contender, layer in pair(name, axis=axis, dtype=policy(dtype)).items():
        layer.build(x.shape)
        contenders[contender] = backend.steps(layer, x, dy, training, mode)
    contenders |= backend.native(name, axis, x, dy, mode)
    label = name if axis == -1 else f"{name} axis=1"
    # Forward reads x and writes y; backward reads x and dy and writes dx.
    for i, (step, moved) in enumerate([("forward", 2), ("forward + backward", 5)]):
        steps = {contender: both[i] for contender, both in contenders.items()}
        yield from compare(steps, mode, label, shape_of(x), dtype, step, turns=turns, copy=lambda: [x + 1], moved=moved)
