"""Training steps of a ResNet-50: normalizations of both libraries, on one device and on replicas."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

import keras_norm as kn
from benchmarks.backends import Step
from benchmarks.layers import policy, shape_of
from benchmarks.small_calls import training_steps
from benchmarks.timing import Row, compare

CALLS = 4  # in a turn
LOSS = "sparse_categorical_crossentropy"


def replacement(layer: type[keras.layers.Layer], **options: Any) -> Any:
    """A function from a normalization of the network to its replacement."""
    return lambda old: layer(name=old.name, dtype=old.dtype_policy, **options)


BATCH, GROUP = kn.BatchNormalization, kn.GroupNormalization
KERAS_BATCH, KERAS_GROUP = keras.layers.BatchNormalization, keras.layers.GroupNormalization
NORMALIZATIONS = {
    "batch": {"keras_norm": replacement(BATCH), "keras.layers": replacement(KERAS_BATCH)},
    "group": {"keras_norm": replacement(GROUP, groups=32), "keras.layers": replacement(KERAS_GROUP, groups=32)},
}
ON_REPLICAS = {
    "batch": {
        "keras_norm": replacement(BATCH, synchronized=True),
        "keras.layers": replacement(KERAS_BATCH, synchronized=True),
        "keras_norm per replica": replacement(BATCH),
    },
    "group": NORMALIZATIONS["group"],
}


def network(image_size: int) -> keras.Model:
    """The network with its batch normalizations replaced."""
    return keras.applications.ResNet50(weights=None, input_shape=(image_size, image_size, 3), classes=10)


def rows(
    names: Sequence[str], batches: Sequence[int], image_size: int, dtype: str, mode: str, turns: int
) -> Iterator[Row]:
    """`train_on_batch` on one device."""
    options = {"run_eagerly": mode == "eager", "jit_compile": mode in ("xla", "jit", "compile")}
    for batch in batches:
        x, y = map(keras.ops.convert_to_tensor, _data(batch, image_size))
        for name in [name for name in NORMALIZATIONS if name in names]:
            keras.utils.clear_session()
            models = _models(NORMALIZATIONS[name], image_size, dtype)
            steps = training_steps(models, x, y, LOSS, **options)
            yield from compare(steps, mode, name, shape_of(x), dtype, "training step", turns=turns, calls=CALLS)


def rows_on_replicas(
    names: Sequence[str], batches: Sequence[int], image_size: int, dtype: str, turns: int
) -> Iterator[Row]:
    """`train_on_batch` under `MirroredStrategy`, where Keras does not compile. `batches` are per replica."""
    import tensorflow as tf

    devices = [device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]
    strategy = tf.distribute.MirroredStrategy(devices)
    for batch in batches:
        x, y = _data(batch * len(devices), image_size)
        data = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors((x, y)).repeat())
        for name in [name for name in ON_REPLICAS if name in names]:
            with strategy.scope():
                models = _models(ON_REPLICAS[name], image_size, dtype)
                training_steps(models, x, y, LOSS, jit_compile=False)
            steps = {key: _step(model, iter(data)) for key, model in models.items()}
            mode = f"{len(devices)} replicas"
            yield from compare(steps, mode, name, shape_of(x), dtype, "training step", turns=turns, calls=CALLS)


def two_replicas() -> None:
    """Splits the CPU into two logical devices, before TensorFlow starts. With GPUs, the replicas run there."""
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def _models(normalizations: dict[str, Any], image_size: int, dtype: str) -> dict[str, keras.Model]:
    keras.config.set_dtype_policy(policy(dtype))
    found = {key: kn.models.replace_normalization(network(image_size), to) for key, to in normalizations.items()}
    keras.config.set_dtype_policy("float32")
    return found


def _data(batch: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, image_size, image_size, 3)).astype("float32"), rng.integers(0, 10, batch)


def _step(model: keras.Model, data: Any) -> Step:
    model.make_train_function()
    return lambda: [model.train_function(data)["loss"]]
