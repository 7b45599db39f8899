"""Models, data and training that every process repeats: on one device, on several replicas, on several workers."""

import keras
import numpy as np

import keras_norm as kn
from support.wrapped_layers import inputs_of_all, model_of_all

EPOCHS, BATCH = 3, 16


def images(samples=48):
    """Images and targets in an order of rising means, so that the parts of a batch differ."""
    rng = np.random.default_rng(0)
    level = np.linspace(-2.0, 2.0, samples)[:, None, None, None]
    x = rng.normal(level, 1.0 + level**2 / 4, (samples, 6, 6, 3)).astype("float32")
    return x, (x.mean((1, 2)) @ [1.0, -1.0, 0.5])[:, None].astype("float32")


def convolutional(model_class=keras.Model, synchronized=True):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    h = keras.layers.Conv2D(4, 3)(inputs)
    h = kn.BatchNormalization(momentum=0.9, synchronized=synchronized)(h)
    h = keras.layers.ReLU()(h)
    return compiled(model_class(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling2D()(h))))


def dense(model_class=keras.Model, synchronized=True):
    """For parts that may be empty, which TensorFlow's convolution does not take on a CPU."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3))
    h = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(inputs))
    h = kn.BatchNormalization(momentum=0.9, synchronized=synchronized)(h)
    return compiled(model_class(inputs, keras.layers.Dense(1)(keras.layers.ReLU()(h))))


def compiled(model):
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse", metrics=["mae"])
    return model


def trained(model, callbacks=None, epochs=EPOCHS, process=0, processes=1):
    """Trains, evaluates and predicts; all that came of it, by name.

    One of several JAX processes has its part of every batch, and Keras cannot predict there.
    """

    def own_part(values):
        shape = values.shape[1:]
        return values.reshape(-1, processes, BATCH // processes, *shape)[:, process].reshape(-1, *shape)

    x, y = map(own_part, images())
    validation, batch_size = tuple(map(own_part, images(32))), BATCH // processes
    history = model.fit(
        x,
        y,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=validation,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    ).history
    results = {f"history {name}": np.array(values) for name, values in history.items()}
    results["evaluate"] = np.array(model.evaluate(*validation, batch_size=batch_size, verbose=0))
    if processes == 1:
        results["predict"] = model.predict(validation[0], batch_size=batch_size, verbose=0)
    return results | weights(model)


WAYS = {"eagerly": {"run_eagerly": True}, "in a graph": {"jit_compile": False}, "by XLA": {"jit_compile": True}}


QUICKEST = "by XLA" if keras.backend.backend() == "jax" else "eagerly"  # to compile takes less than three steps on JAX


def wrapped(wrapper, way=QUICKEST):
    """A model of every wrapped layer after three epochs of `fit`, the weights that it began with, and its losses."""
    keras.utils.set_random_seed(0)
    model = model_of_all(wrapper)
    start = model.get_weights()
    # Outputs of standardized kernels are large, and need a low rate.
    model.compile(keras.optimizers.SGD(1e-4), dict.fromkeys(model.output, "mse"), **WAYS[way])
    targets = {name: np.ones((4, 1)) for name in model.output}
    history = model.fit(inputs_of_all(), targets, epochs=3, shuffle=False, verbose=0).history
    return model, start, history


def weights(model):
    return {f"weight {i} {w.path.split('/')[-1]}": keras.ops.convert_to_numpy(w) for i, w in enumerate(model.weights)}


def error_of(function):
    """What the call says when it fails, or ""."""
    try:
        function()
    except Exception as error:
        return str(error)
    return ""
