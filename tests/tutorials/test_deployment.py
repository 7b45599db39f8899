"""What a deployed network costs does not depend on how it was trained."""

import keras
import numpy as np

from keras_norm.tutorials import deployment
from support.backends import tensorflow_only

pytestmark = tensorflow_only


def test_the_files_of_a_compiled_model_have_no_optimizer():
    model = keras.Sequential([keras.Input((40,)), keras.layers.Dense(1000)])
    image = np.ones((1, 40), "float32")
    plain = deployment.costs({"model": model}, image, repeats=1)
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)  # twice as many values as the weights
    trained = deployment.costs({"model": model}, image, repeats=1)
    sizes = [int(costs.loc["model", ".keras, kB"]) for costs in (plain, trained)]
    assert abs(sizes[1] - sizes[0]) <= 2
