"""python on_jax_devices.py SYNCHRONIZED OUT: training on all devices of JAX under keras.distribution.DataParallel."""

import sys

import jax
import keras
import numpy as np

from support import trainings

keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
found = trainings.trained(trainings.convolutional(synchronized=bool(int(sys.argv[1]))))
np.savez(sys.argv[2], devices=len(jax.devices()), **found)
