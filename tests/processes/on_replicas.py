"""python on_replicas.py COUNT OUT WAY: everything that the tests ask of COUNT replicas in one process."""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_norm as kn
from keras_norm import compilation, kernels, models
from keras_norm.distribute import DistributedModel
from support import cases, checkpoints, parts, trainings
from support.wrapped_layers import WRAPPERS, inputs_of_all

COUNT, OUT, WAY = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
if WAY == "as on a GPU":
    kernels.has_accelerator = lambda: True
    compilation.set_mode("always")
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * COUNT)
strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(COUNT)])


def distributed(values):
    if values is None:
        return None
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(values[context.replica_id_in_sync_group])
    )


def local(value):
    return [tf.convert_to_tensor(v).numpy() for v in strategy.experimental_local_results(value)]


def concatenated(value):
    return np.concatenate([v.astype("float64") for v in local(value)])


def on_each_replica(function):
    # Parts of sizes that differ share one graph, in which the batch has no size.
    return tf.function(lambda *args: strategy.run(function, args), autograph=False, reduce_retracing=True)


def collectives(function, *args):
    """The collectives of one replica in the traced function."""
    operations = on_each_replica(function).get_concrete_function(*args).graph.get_operations()
    return sum(o.type.startswith("Collective") for o in operations) / COUNT


def one_call(call):
    """What the layer of a call gives for the parts of each size, by name."""
    found = {}
    with strategy.scope():
        layer = parts.made(call)
    start = layer.get_weights()

    def forward(x, mask):
        return layer(x, training=True, mask=mask)

    def gradients(x, cotangent, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = forward(x, mask)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * cotangent)
        return y, *tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])

    on_replicas = on_each_replica(gradients)
    for sizes in parts.SIZES[COUNT]:
        with strategy.scope():
            layer.set_weights(start)
        x = distributed([p.astype(layer.compute_dtype) for p in parts.inputs(sizes, call)])
        cotangent, mask = distributed(parts.cotangents(sizes)), distributed(parts.masks(sizes, call))
        y, dx, dgamma, dbeta = on_replicas(x, cotangent, mask)
        got = {
            "y": concatenated(y),
            "dx": concatenated(dx),
            "dgamma": np.sum(local(dgamma), 0),
            "dbeta": np.sum(local(dbeta), 0),
            "moving_mean": np.array(local(layer.moving_mean.value)),
            "moving_variance": np.array(local(layer.moving_variance.value)),
        }
        if sizes == parts.SIZES[COUNT][0]:
            got["collectives"] = collectives(forward, x, mask)
            got["collectives of inference"] = collectives(lambda x, mask: layer(x, mask=mask), x, mask)
        found |= {f"{call} {sizes} {name}": value for name, value in got.items()}
    return found


def training(model):
    """What training gives, the copies of each weight, and what the saved model predicts."""
    got = trainings.trained(model)
    got |= {f"copies {w.path.split('/')[-1]}": np.array(local(w.value)) for w in model.weights}
    model.save(OUT.with_suffix(".keras"))
    loaded = keras.models.load_model(OUT.with_suffix(".keras"))
    return got | {"loaded predict": loaded.predict(trainings.images(32)[0], batch_size=trainings.BATCH, verbose=0)}


def uneven_training(model_class, synchronized=True):
    """Trains on batches of (3, 2), (3, 2) and (1, 0) samples."""
    with strategy.scope():
        model = trainings.dense(model_class, synchronized)
    x, y = trainings.images(11)
    model.fit(x, y, batch_size=5, epochs=2, shuffle=False, verbose=0)
    evaluated = model.evaluate(x, y, batch_size=5, verbose=0)
    return trainings.weights(model) | {"evaluate": evaluated, "predict": model.predict(x, batch_size=5, verbose=0)}


def checkpointed(name, model, x):
    """Each value before and after the way through a checkpoint, and then the copies of each weight."""
    with strategy.scope():
        before, after = checkpoints.through(model, x, OUT.with_suffix(".checkpoint"))
    values = [*zip(before, after, strict=True), *(local(w.value) for w in model.weights)]
    return {f"checkpoint of {name} {i}": np.array(value) for i, value in enumerate(values)}


def groups_of_3():
    with strategy.scope():
        layer = kn.BatchNormalization(synchronized=3)
        layer.build((None, 4))
    return trainings.error_of(lambda: strategy.run(lambda: layer(tf.ones((2, 4)), training=True)))


def standard(h):
    return (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-3)


def recalibrated(layer, synchronized):
    """The statistics of two layers, and by hand those of one device that is given the batch, or each part, in turn."""
    x = np.random.default_rng(0).normal(np.linspace(-3, 3, 12)[:, None], 2, (12, 3)).astype("float32")
    with strategy.scope():
        keras.utils.set_random_seed(0)
        first, second = layer(synchronized=synchronized), layer(synchronized=synchronized)
        model = keras.Sequential([keras.Input((3,)), first, keras.layers.Dense(4, "tanh"), second])
    models.recalibrate_batch_normalization(model, x, batch_size=4, verbose=0)  # outside of the scope, as a user would
    kernel = model.layers[1].kernel.numpy().astype("float64")
    batches = [x[i : i + 4].astype("float64") for i in (0, 4, 8)]
    seen = batches if synchronized else [part for batch in batches for part in (batch[:2], batch[2:])]
    inner = np.concatenate([np.tanh(standard(part) @ kernel) for part in seen])
    return {
        f"{name} {moment}": [getattr(norm, f"moving_{moment}").numpy(), want]
        for name, norm, h in (("first", first, x.astype("float64")), ("second", second, inner))
        for moment, want in (("mean", h.mean(0)), ("variance", h.var(0)))
    }


def checkpoints_and_wrapped_layers():
    with strategy.scope():
        model = cases.model_of_all()
    found = checkpointed("layers", model, cases.random_input(2, 3, 4, cases.CHANNELS, dtype="float32"))
    for wrapper in WRAPPERS:
        with strategy.scope():
            model, _, _ = trainings.wrapped(wrapper, "in a graph")
        found |= checkpointed(wrapper.__name__, model, inputs_of_all())
        prefix = f"wrapped {wrapper.__name__}"
        found |= {f"{prefix} {name}": value for name, value in trainings.weights(model).items()}
    return found


def normalizations():
    found = {}
    for call in parts.calls(COUNT):
        found |= one_call(call)
    for synchronized in (True, False):
        with strategy.scope():
            model = trainings.convolutional(synchronized=synchronized)
        found |= {f"training {synchronized} {name}": value for name, value in training(model).items()}
    found["error of groups of 3"] = groups_of_3()
    if COUNT == 2:
        for synchronized in (True, False):
            got = uneven_training(DistributedModel, synchronized)
            found |= {f"uneven {synchronized} {name}": value for name, value in got.items()}
        found["uneven error of keras.Model"] = trainings.error_of(lambda: uneven_training(keras.Model))
    if (COUNT, WAY) == (2, "as it is"):
        for library, layer in (("ours", kn.BatchNormalization), ("keras", keras.layers.BatchNormalization)):
            for synchronized in (True, False):
                got = recalibrated(layer, synchronized)
                found |= {f"recalibrated {library} {synchronized} {name}": value for name, value in got.items()}
    return found


np.savez(OUT, **(checkpoints_and_wrapped_layers() if WAY == "checkpoints" else normalizations()))
