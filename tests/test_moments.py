"""Sets and moments, by themselves."""

import keras
import numpy as np
import pytest

from keras_norm.moments import moments
from keras_norm.sets import Groups, along, axes_except, batch, group, merge, split
from support.backends import array
from support.cases import random_input

pytestmark = pytest.mark.quick


def test_split_groups_neighboring_channels_in_place_and_merge_undoes_it():
    x, groups = np.arange(2 * 6 * 5).reshape(2, 6, 5), Groups(axis=1, count=3)
    h = array(split(x, groups))
    assert h.shape == (2, 3, 2, 5)
    np.testing.assert_array_equal(h[:, 1, 0], x[:, 2])
    np.testing.assert_array_equal(array(merge(h, x, groups)), x)


def test_axes_except_are_all_others():
    assert axes_except(np.zeros((2, 3, 4, 5)), 0, 2) == (1, 3)


def test_a_group_has_one_mean():
    x = random_input(2, 5, 6)
    mean = array(moments(x, group(x, axis=2, groups=2)).mean)
    np.testing.assert_allclose(mean[0, 0, :, 0], [x[0, :, :3].mean(), x[0, :, 3:].mean()], rtol=1e-12)


def test_moments_about_zero_are_the_mean_square():
    x = random_input(4, 5, 6)
    mean, variance, count = moments(x, batch(x, axis=2), centered=False)
    assert not array(mean).any()
    np.testing.assert_allclose(array(variance)[0, 0], (x**2).mean((0, 1)), rtol=1e-12)
    assert count == 20


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
def test_sums_of_shards_of_any_size_give_the_moments_of_the_global_batch(masked):
    x = random_input(9, 5, 4, dtype="float32") * 10 ** np.arange(9, dtype="float32").reshape(9, 1, 1)
    mask = np.random.default_rng(1).integers(0, 2, x.shape).astype(bool) if masked else None
    parts = [slice(0, 6), slice(6, 6), slice(6, 9)]

    # The partial sums of each shard, in the order of the calls, are gathered first and served after.
    def sums_of(part, served):
        seen = []

        def all_reduce(tensors):
            seen.append([array(t) for t in tensors])
            return served[len(seen) - 1] if len(seen) <= len(served) else tensors

        result = moments(x[part], along((0, 1)), None if mask is None else mask[part], pool=all_reduce)
        return seen, result

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
    variance = array(moments(x, along((0, 1, 2))).variance).ravel()
    np.testing.assert_allclose(variance, x.astype("float64").var((0, 1, 2)), rtol=tolerance)


def test_an_empty_set_has_mean_0_and_variance_0():
    mean, variance, count = moments(np.zeros((0, 3), "float32"), along((0,)))
    assert array(mean).tolist() == array(variance).tolist() == [[0.0] * 3]
    assert count == 0


def test_integers_are_averaged_in_float32():
    mean, variance, *_ = moments(np.array([[1, 2], [4, 2]]), along((0,)))
    assert array(mean).tolist() == [[2.5, 2.0]]
    assert array(variance).tolist() == [[2.25, 0.0]]
