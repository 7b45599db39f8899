"""python on_jax_devices.py COUNT OUT WAY: what the tests ask of COUNT devices under keras.distribution.DataParallel.

In one process, or in one of several that share the devices, which Keras' environment variables name. The first writes.
"""

import os
import sys

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

import keras_norm as kn
from support import parts, trainings

COUNT, OUT = int(sys.argv[1]), sys.argv[2]
PROCESSES = int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", 1))
jax.config.update("jax_num_cpu_devices", COUNT // PROCESSES)
keras.utils.set_random_seed(0)
if PROCESSES > 1:
    keras.distribution.initialize()
PROCESS = jax.process_index()
distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
keras.distribution.set_distribution(distribution)


def distributed(parts_of):
    """The parts of a batch as one array, each on its device."""
    own = np.concatenate(np.array_split(parts_of, PROCESSES)[PROCESS])
    layout = distribution.get_data_layout(own.shape).backend_layout
    return jax.make_array_from_process_local_data(layout, own)


def whole(values):
    return np.asarray(multihost_utils.process_allgather(values, tiled=True), "float32")


def one_call(call, sizes):
    layer = parts.made(call)

    def loss(trainable, x, state, cotangent, mask):
        y, state = layer.stateless_call(trainable, state, x, training=True, mask=mask)
        return (y * cotangent).sum(), (y, state)

    trainable = [weight.value for weight in layer.trainable_variables]
    state = [variable.value for variable in layer.non_trainable_variables]
    masks = parts.masks(sizes, call)
    x = distributed([part.astype(layer.compute_dtype) for part in parts.inputs(sizes, call)])
    cotangent = distributed(parts.cotangents(sizes))
    mask = None if masks is None else distributed(masks)
    gradients = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (to_weights, dx), (y, state) = gradients(trainable, x, state, cotangent, mask)
    names = [weight.name for weight in layer.trainable_variables]
    moving = dict(zip([v.name for v in layer.non_trainable_variables], state, strict=True))
    return {
        "y": whole(y),
        "dx": whole(dx),
        **{f"d{name}": gradient for name, gradient in zip(names, to_weights, strict=True)},
        **{name: np.broadcast_to(moving[name], (COUNT, parts.CHANNELS)) for name in ("moving_mean", "moving_variance")},
    }


def error_of(synchronized, samples=8, axis=-1):
    layer = kn.BatchNormalization(axis, synchronized=synchronized)
    return trainings.error_of(lambda: layer(np.ones((samples, 4)), training=True))


def training(synchronized):
    return trainings.trained(trainings.convolutional(synchronized=synchronized), process=PROCESS, processes=PROCESSES)


sizes = parts.SAMPLES_ON_JAX
found = {f"{call} {sizes} {name}": v for call in parts.calls(COUNT) for name, v in one_call(call, sizes).items()}
for synchronized in (True, False):
    found |= {f"training {synchronized} {name}": value for name, value in training(synchronized).items()}
found["history of pairs"] = training(2)["history loss"]
found["devices"] = len(jax.devices())
if PROCESSES == 1:
    found["mean only"] = kn.MeanOnlyBatchNormalization(synchronized=2)(np.arange(8.0)[:, None] ** 2, training=True)
    found["built while training"] = kn.BatchNormalization(synchronized=2)(keras.Input((3,)), training=True).shape[1]
    found["error of groups of 3"], found["error of 7 samples"] = error_of(3), error_of(2, samples=7)
    found["error of axis 0"] = error_of(2, axis=0)
    layouts = keras.distribution.LayoutMap(keras.distribution.DeviceMesh((2, 2), ("batch", "model")))
    with keras.distribution.ModelParallel(layout_map=layouts, auto_shard_dataset=False).scope():
        found["error on a mesh of 2 by 2"] = error_of(3)
else:
    model, (x, _) = trainings.convolutional(), trainings.images(8)
    found["error of predict"] = trainings.error_of(lambda: model.predict(x, verbose=0))
if PROCESS == 0:
    np.savez(OUT, **found)
