"""Which layers are found inside a layer, in which order, and by which paths."""

import keras
import pytest
from keras import layers

import keras_norm as kn
from keras_norm.models.predicates import is_frozen
from keras_norm.walk import all_layers, named_layers

pytestmark = pytest.mark.quick


class Block(layers.Layer):
    def __init__(self, shared, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(2, name="dense"), {"last": shared}]


def test_each_layer_is_listed_once_outer_before_inner_by_its_first_path():
    shared = layers.ReLU(name="shared")
    block = Block(shared, name="outer")
    block.blocks = [Block(shared, name="first"), Block(shared, name="second")]
    paths = [path for path, _ in named_layers(block)]
    assert paths == ["", "dense", "shared", "first", "first/dense", "second", "second/dense"]
    assert all_layers(block) == [layer for _, layer in named_layers(block)]


def test_cells_of_cells_are_listed_in_their_order():
    cells = [layers.SimpleRNNCell(2, name=name) for name in "abc"]
    rnn = layers.RNN(layers.StackedRNNCells(cells, name="cells"), name="rnn")
    assert [layer.name for layer in all_layers(rnn)] == ["rnn", "cells", "a", "b", "c"]


def test_leaves_are_not_entered():
    frozen = kn.FrozenBatchNormalization(kn.BatchNormalization(name="norm"))
    model = keras.Sequential([keras.Input((3,), name="x"), frozen])
    assert len(all_layers(model)) == 4
    assert [path for path, _ in named_layers(model, is_leaf=is_frozen)] == ["", "x", "norm"]
