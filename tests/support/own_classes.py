"""Subclassed models, as other people write them: nothing registered, layers wherever Python holds them."""

import keras
from keras import layers as kl

from support.networks import randomized

FEATURES = 4


class Block(kl.Layer):
    """A layer that makes its layers when it is built, and passes on what Keras passes to it."""

    def __init__(self, features, **kwargs):
        super().__init__(**kwargs)
        self.features = features

    def build(self, input_shape):
        self.path_layers = [kl.Dense(self.features), kl.BatchNormalization()]
        dense, norm = self.path_layers
        dense.build(input_shape)
        norm.build((*input_shape[:-1], self.features))

    def call(self, x, training=None):
        dense, norm = self.path_layers
        return norm(dense(x), training=training)

    def get_config(self):
        return super().get_config() | {"features": self.features}


class Everywhere(keras.Model):
    """Normalizations in attributes, lists, dicts, tuples, models, layers, wrappers and a function, one held twice."""

    COUNT = 8

    def __init__(self, features=FEATURES, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.features, self.factor = features, factor
        self.norm = self.again = kl.BatchNormalization()
        self.in_list = [kl.Dense(features), kl.BatchNormalization()]
        self.in_dict = {"norms": {"one": kl.BatchNormalization()}}
        self.in_tuple = (kl.BatchNormalization(), kl.Dense(features))
        self.in_both = {"deep": [(kl.BatchNormalization(),)]}
        self.model_inside = keras.Sequential([kl.Dense(features), kl.BatchNormalization()])
        self.block = Block(features)
        self.over_time = kl.TimeDistributed(kl.BatchNormalization())
        norm = self.norm
        self.by_function = lambda x: norm(x)

    def call(self, x):
        for layer in (self.norm, *self.in_list, self.in_dict["norms"]["one"], *self.in_tuple, self.model_inside):
            x = layer(x)
        x = self.by_function(self.block(self.in_both["deep"][0][0](x)))
        return self.factor * self.again(self.over_time(x))

    def get_config(self):
        return super().get_config() | {"features": self.features, "factor": self.factor}


class Detector(keras.Model):
    """A Functional model with its own constructor, arguments of `compile` and step of training."""

    def __init__(self, features=FEATURES, **kwargs):
        x = keras.Input((3, FEATURES))
        h = kl.BatchNormalization(name="first")(kl.Dense(features, name="dense")(x))
        block = Block(features, name="block")
        super().__init__(x, {"boxes": block(keras.ops.relu(h)), "classes": h}, **kwargs)
        self.features, self.last_block = features, block
        self.pyramid_outputs = {"P3": h}

    def compile(self, box_loss=None, **kwargs):
        super().compile(**kwargs)
        self.box_loss = box_loss

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.box_loss(y, y_pred["boxes"]) + 0.0 * keras.ops.mean(y_pred["classes"])

    def get_config(self):
        return {"features": self.features, "name": self.name, "trainable": self.trainable}


class Guessed(keras.Model):
    """A class without `get_config`, for which Keras guesses the default: a rate of 0.5, whatever was given."""

    def __init__(self, rate=0.5):
        super().__init__()
        self.rate, self.norm = rate, kl.BatchNormalization()

    def call(self, x):
        return self.rate * self.norm(x)


class Scale(kl.Layer):
    """A layer with an argument and no weights."""

    def __init__(self, by=1.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by

    def call(self, x):
        return self.by * x

    def get_config(self):
        return super().get_config() | {"by": self.by}


class Plain(keras.Model):
    """A class without `get_config` that needs none, with a layer that it does not call."""

    def __init__(self):
        super().__init__()
        self.norm, self.spare = kl.BatchNormalization(), kl.BatchNormalization()

    def call(self, x):
        return self.norm(x)


class Stack(keras.Sequential):
    """A Sequential subclass with another constructor."""

    def __init__(self):
        super().__init__([keras.Input((3, FEATURES)), kl.Dense(FEATURES), kl.BatchNormalization()])


def built(make, *args, **kwargs):
    model = make(*args, **kwargs)
    model(keras.ops.ones((2, 3, FEATURES)))
    return randomized(model)
