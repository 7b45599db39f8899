"""python on_jax_devices.py COUNT OUT WAY: what the tests ask of COUNT devices under keras.distribution.DataParallel."""

import os
import sys

COUNT, OUT = int(sys.argv[1]), sys.argv[2]  # there is one way on JAX
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={COUNT}"

import jax
import keras
import numpy as np

import keras_norm as kn
from support import parts, trainings

distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
keras.distribution.set_distribution(distribution)


def distributed(parts_of):
    """The parts of a batch as one array, each on its device."""
    values = np.concatenate(parts_of)
    return keras.distribution.distribute_tensor(values, distribution.get_data_layout(values.shape))


def one_call(call, sizes):
    layer = parts.made(call)
    masks = parts.masks(sizes, call)
    mask, cotangent = None if masks is None else distributed(masks), distributed(parts.cotangents(sizes))

    def loss(trainable, x):
        state = [variable.value for variable in layer.non_trainable_variables]
        y, state = layer.stateless_call(trainable, state, x, training=True, mask=mask)
        return (y * cotangent).sum(), (y, state)

    weights = [weight.value for weight in layer.trainable_variables]
    x = distributed(parts.inputs(sizes, call))
    (to_weights, dx), (y, state) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(weights, x)
    names = [weight.name for weight in layer.trainable_variables]
    moving = dict(zip([v.name for v in layer.non_trainable_variables], state, strict=True))
    return {
        "y": y,
        "dx": dx,
        **{f"d{name}": gradient for name, gradient in zip(names, to_weights, strict=True)},
        **{name: np.broadcast_to(moving[name], (COUNT, parts.CHANNELS)) for name in ("moving_mean", "moving_variance")},
    }


def error_of(synchronized, samples=8, axis=-1):
    layer = kn.BatchNormalization(axis, synchronized=synchronized)
    return trainings.error_of(lambda: layer(np.ones((samples, 4)), training=True))


sizes = parts.SAMPLES_ON_JAX
found = {f"{call} {sizes} {name}": v for call in parts.calls(COUNT) for name, v in one_call(call, sizes).items()}
for synchronized in (True, False):
    got = trainings.trained(trainings.convolutional(synchronized=synchronized))
    found |= {f"training {synchronized} {name}": value for name, value in got.items()}
found["history of pairs"] = trainings.trained(trainings.convolutional(synchronized=2))["history loss"]
found["mean only"] = kn.MeanOnlyBatchNormalization(synchronized=2)(np.arange(8.0)[:, None] ** 2, training=True)
found["built while training"] = kn.BatchNormalization(synchronized=2)(keras.Input((3,)), training=True).shape[1]
found["error of groups of 3"], found["error of 7 samples"] = error_of(3), error_of(2, samples=7)
found["error of axis 0"] = error_of(2, axis=0)
np.savez(OUT, devices=len(jax.devices()), **found)
