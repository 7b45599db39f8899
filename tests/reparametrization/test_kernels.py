"""The unit axes that a layer's type tells, and kernels as matrices."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_norm.kernel_layouts import output_axes
from keras_norm.reparametrization.kernels import find_kernels
from support.backends import array
from support.wrapped_layers import KINDS, as_matrix

pytestmark = pytest.mark.quick


def kernels_of(layer, *shape, names=None, axis=None):
    layer.build((None, *shape))
    return find_kernels("test", layer, names, axis)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_type_of_a_layer_tells_its_kernels_and_their_unit_axes(kind):
    assert {k.weight.name: k.axes for k in kernels_of(kind.make(), *kind.shape)} == kind.unit_axes


@pytest.mark.parametrize(
    ("layer", "shape", "axes"),
    [
        (layers.Conv1DTranspose(3, 2), (5, 4), (1,)),
        (layers.Conv3DTranspose(3, 2), (5, 4, 3, 2), (3,)),
        (layers.DepthwiseConv1D(2, depth_multiplier=2), (5, 4), (1, 2)),
        (layers.ConvLSTM2D(3, 2), (4, 5, 6, 2), (3,)),
        (layers.EinsumDense("ab,bc->ac", 3), (4,), (1,)),
        (layers.EinsumDense("...x,xy->...y", 3), (5, 4), (1,)),
        (layers.EinsumDense("abc,bcd->abd", (4, 3)), (4, 5), (0, 2)),
        (layers.EinsumDense("ab,b->a", ()), (4,), ()),
    ],
    ids=lambda value: getattr(value, "equation", type(value).__name__),
)
def test_the_unit_axes_of_other_layers(layer, shape, axes):
    assert [k.axes for k in kernels_of(layer, *shape)] == [axes]


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_a_kernel_as_a_matrix_has_a_column_for_each_unit(axes):
    (kernel,) = kernels_of(layers.Conv1D(4, 2), 5, 3, axis=axes)
    value = np.random.default_rng(0).normal(size=(2, 3, 4))
    matrix = kernel.to_matrix(keras.ops.convert_to_tensor(value))
    np.testing.assert_array_equal(array(matrix), as_matrix(value, axes))
    np.testing.assert_array_equal(array(kernel.from_matrix(matrix)), value)


def test_kernels_of_sublayers_are_told_by_the_type_of_their_own_layer():
    model = keras.Sequential([layers.DepthwiseConv2D(2), layers.Conv2D(3, 2), layers.Conv2DTranspose(2, 2)])
    assert [k.axes for k in kernels_of(model, 5, 6, 4)] == [(2, 3), (3,), (2,)]


def test_weights_are_found_in_the_order_of_their_names():
    found = kernels_of(layers.LSTM(3), 4, 5, names=["recurrent_kernel", "kernel"])
    assert [k.weight.name for k in found] == ["recurrent_kernel", "kernel"]


@pytest.mark.parametrize(
    ("layer", "axes"),
    [
        (layers.Dense(3), (-1,)),
        (layers.Conv2D(3, 2, data_format="channels_first"), (1,)),
        (layers.Conv2DTranspose(3, 2, data_format="channels_last"), (-1,)),
        (layers.SeparableConv1D(3, 2, data_format="channels_last"), (-1,)),
        (layers.EinsumDense("abc,dce->aebd", (3, 4, 2)), (3, 1)),
        (layers.EinsumDense("...x,xy->...y", 3), (-1,)),
        (layers.EinsumDense("ab...,bc->ac...", 3), (1,)),
        (layers.Embedding(7, 3), None),
        (layers.LSTM(3), None),
    ],
    ids=lambda value: getattr(value, "equation", type(value).__name__),
)
def test_the_units_lie_along_known_axes_of_the_output(layer, axes):
    assert output_axes(layer) == axes
