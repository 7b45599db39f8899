"""A model's way through `tf.train.Checkpoint`."""

import keras

from support.backends import array


def through(model, x, path):
    """What a model holds and predicts when it is written, and when it is read after all its weights have changed."""
    import tensorflow as tf

    checkpoint = tf.train.Checkpoint(model=model)
    written, before = checkpoint.write(str(path)), _state(model, x)
    for variable in _variables(model):
        variable.assign(variable.value + keras.ops.ones_like(variable.value))
    checkpoint.read(written).assert_existing_objects_matched()
    return before, _state(model, x)


def _state(model, x):
    return [array(part) for part in [*keras.tree.flatten(model(x)), *_variables(model)]]


def _variables(model):
    """The weights of the model, and the variables of its optimizer."""
    return [*model.weights, *(model.optimizer.variables if model.compiled else [])]
