"""python tests/golden/add_release.py: writes the files of this version, which every later version must load.

One `.keras` and one `.weights.h5` for each layer and wrapper, and what each model computes. Run it once per release,
when `keras_norm.__version__` is set, on TensorFlow and on the lowest Keras that setup.cfg allows: 3.13 cannot read the
`.keras` files of 3.15, whose initializers have arguments that it does not know. The files of earlier releases stay.
"""

import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import keras_norm as kn
from support.cases import CASES, CHANNELS, random_input
from support.wrapped_layers import BY_NAME, WRAPPERS

SHAPE = (3, 4, CHANNELS)
OUTPUTS = "outputs.npz"


def of_case(case):
    """The layer between two convolutions: a file holds the layers around it too."""
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(CHANNELS, 1, use_bias=False),
            case.built((None, *SHAPE)),
            keras.layers.Conv2D(2, 1),
        ]
    )


def of_cell(cell):
    return keras.Sequential([keras.Input((4, CHANNELS)), keras.layers.RNN(cell(3)), keras.layers.Dense(2)])


def of_thresholds():
    return keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(CHANNELS, 1), kn.ThresholdedLinearUnit()])


CELLS = (kn.LayerNormGRUCell, kn.LayerNormLSTMCell, kn.LayerNormSimpleRNNCell)
MODELS = {case.name: partial(of_case, case) for case in CASES} | {
    f"{wrapper.__name__}({kind})": partial(BY_NAME[kind].model, wrapper)
    for wrapper in WRAPPERS
    for kind in ("Dense", "Conv2DTranspose", "Embedding", "LSTM")
}
MODELS |= {cell.__name__: partial(of_cell, cell) for cell in CELLS} | {"ThresholdedLinearUnit": of_thresholds}


def stem(name):
    """The name as a part of a file's name."""
    return name.replace("(", "_").replace(")", "").replace(", ", "_")


def inputs(model):
    shape = (5, *model.input_shape[1:])
    if keras.backend.is_int_dtype(model.inputs[0].dtype):
        return np.arange(np.prod(shape)).reshape(shape) % BY_NAME["Embedding"].make().input_dim
    return random_input(*shape, dtype="float32")


def add(folder):
    folder.mkdir()
    outputs = {}
    for name, make in MODELS.items():
        keras.utils.set_random_seed(0)
        model = make()
        x = inputs(model)
        model.compile(keras.optimizers.SGD(1e-4), "mse")
        model.fit(x, np.ones((5, *model.output_shape[1:])), epochs=2, verbose=0)
        model.save(folder / f"{stem(name)}.keras")
        model.save_weights(folder / f"{stem(name)}.weights.h5")
        outputs[stem(name)] = model.predict(x, verbose=0)
    np.savez(folder / OUTPUTS, **outputs)
    print(f"{len(outputs)} models in {folder}")


if __name__ == "__main__":
    add(HERE / kn.__version__)
