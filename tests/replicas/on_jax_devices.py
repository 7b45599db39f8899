"""python on_jax_devices.py OUT: training on all devices of JAX under keras.distribution.DataParallel."""

import sys

import jax
import keras
import numpy as np
from replicas import models

keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
model = models.convolutional()
found = models.trained(model)
np.savez(sys.argv[1], devices=len(jax.devices()), **found)
