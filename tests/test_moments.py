"""The moments themselves, and what joins the parts of a set."""

import keras
import numpy as np
import pytest

from keras_norm import compilation
from keras_norm.moments import axes_except, moments, sets_along, sets_of_groups, split_groups
from support.backends import array
from support.cases import random_input

pytestmark = pytest.mark.quick


def test_split_groups_puts_neighbouring_channels_into_a_group_where_the_channels_stood():
    x = np.arange(2 * 6 * 5).reshape(2, 6, 5)
    h = array(split_groups(x, 3, axis=1))
    assert h.shape == (2, 3, 2, 5)
    np.testing.assert_array_equal(h[:, 1, 0], x[:, 2])


def test_axes_except_are_all_others():
    assert axes_except(np.zeros((2, 3, 4, 5)), 0, 2) == (1, 3)


def test_a_group_has_one_mean_that_stands_at_each_of_its_channels():
    x = random_input(2, 5, 6)
    mean = array(moments(x, sets_of_groups(x, 2, axis=2)).mean)
    np.testing.assert_allclose(mean[0, 0], np.repeat([x[0, :, :3].mean(), x[0, :, 3:].mean()], 3), rtol=1e-12)


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_moments_of_parts_of_any_size_join_to_those_of_the_whole(masked, monkeypatch):
    monkeypatch.setattr(compilation, "_mode", "never")  # this join takes values out of the computation
    x = random_input(9, 5, 4, dtype="float32") * 10 ** np.arange(9, dtype="float32").reshape(9, 1, 1)
    mask = np.random.default_rng(1).integers(0, 2, x.shape).astype(bool) if masked else None
    parts = [slice(0, 6), slice(6, 6), slice(6, 9)]

    # What each part adds to the sums, in the order of the calls, is gathered first and served after.
    def sums_of(part, served):
        seen = []

        def all_reduce(tensors):
            seen.append([array(t) for t in tensors])
            return served[len(seen) - 1] if len(seen) <= len(served) else tensors

        result = moments(x[part], sets_along((0, 1), all_reduce), None if mask is None else mask[part])
        return seen, result[:3]

    served = []
    for call in range(2):
        each = [sums_of(part, served)[0][call] for part in parts]
        served.append(tuple(keras.ops.convert_to_tensor(sum(tensors)) for tensors in zip(*each, strict=True)))
    mean, variance, count = (np.broadcast_to(array(m), (1, 1, 4)) for m in sums_of(parts[1], served)[1])

    counted = np.ones(x.shape, bool) if mask is None else mask
    for c in range(4):
        values = x[..., c][counted[..., c]].astype("float64")
        np.testing.assert_allclose(mean[0, 0, c], values.mean(), rtol=1e-6)
        np.testing.assert_allclose(variance[0, 0, c], values.var(), rtol=1e-6)
        assert count[0, 0, c] == values.size


@pytest.mark.parametrize(("offset", "tolerance"), [(1e2, 1e-6), (1e3, 1e-5), (1e4, 1e-4)])
def test_variance_keeps_its_accuracy_far_from_zero(offset, tolerance):
    x = np.random.default_rng(0).normal(offset, 1.0, (64, 32, 32, 4)).astype("float32")
    variance = array(moments(x, sets_along((0, 1, 2))).variance).ravel()
    np.testing.assert_allclose(variance, x.astype("float64").var((0, 1, 2)), rtol=tolerance)


def test_an_empty_set_has_mean_0_and_variance_0():
    mean, variance, count, _ = moments(np.zeros((0, 3), "float32"), sets_along((0,)))
    assert array(mean).tolist() == array(variance).tolist() == [[0.0] * 3]
    assert (array(count) == 0).all()


def test_integers_are_averaged_in_float32():
    mean, variance, *_ = moments(np.array([[1, 2], [4, 2]]), sets_along((0,)))
    assert array(mean).tolist() == [[2.5, 2.0]]
    assert array(variance).tolist() == [[2.25, 0.0]]
