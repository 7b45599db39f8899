"""BatchRenormalization beyond the contract: what its corrections are and when they are clipped."""

import keras
import numpy as np
import pytest

import keras_norm as kn
from support.backends import array, call, gradients, keras_with_renorm
from support.cases import random_input
from support.reference import differences

pytestmark = pytest.mark.quick

EPSILON = 1e-3
SHAPE = (3, 4, 6)


def drifting(step, shape=(8, 6)):
    """A batch whose mean and scale change from step to step."""
    return (random_input(*shape, seed=step) * (1 + step / 10) + step / 5).astype("float32")


def with_statistics(layer, mean, variance):
    layer.build(SHAPE)
    layer.moving_mean.assign(np.full(6, mean))
    layer.moving_variance.assign(np.full(6, variance))
    return layer


def renormalized(x, mean, variance, r, d):
    """gamma = 1 and beta = 0: r (x - mean(S)) / sigma_B + d, with r and d held constant."""
    sigma = np.sqrt(x.var((0, 1)) + EPSILON)
    return r * (x - x.mean((0, 1))) / sigma + d


def corrections(x, mean, variance, r_max, d_max):
    sigma_b, sigma = np.sqrt(x.var((0, 1)) + EPSILON), np.sqrt(variance + EPSILON)
    r = np.clip(sigma_b / sigma, 1 / r_max, r_max)
    return r, np.clip((x.mean((0, 1)) - mean) / sigma, -d_max, d_max)


def test_without_corrections_it_is_batch_normalization_in_the_output_and_every_gradient():
    x, cotangent = random_input(*SHAPE), random_input(*SHAPE, seed=1)
    renorm = with_statistics(kn.BatchRenormalization(r_max=1, d_max=0, dtype="float64"), 1.0, 4.0)
    plain = with_statistics(kn.BatchNormalization(dtype="float64"), 1.0, 4.0)
    np.testing.assert_allclose(call(renorm, x, training=True), call(plain, x, training=True), rtol=1e-10, atol=1e-10)
    pairs = zip(
        gradients(renorm, x, cotangent, training=True), gradients(plain, x, cotangent, training=True), strict=True
    )
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def test_with_open_clips_training_gives_what_inference_gives():
    x = random_input(*SHAPE, dtype="float32")
    layer = with_statistics(kn.BatchRenormalization(r_max=1e6, d_max=1e6), 1.0, 4.0)
    want = call(layer, x, training=False)
    np.testing.assert_allclose(call(layer, x, training=True), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("r_max", "d_max"), [(1.2, 0.1), (3.0, 0.1), (1.2, 5.0), (3.0, 5.0)])
@pytest.mark.parametrize(("mean", "variance"), [(1.0, 4.0), (3.0, 30.0)])
def test_the_output_is_the_formula_and_the_gradient_that_of_constant_corrections(mean, variance, r_max, d_max):
    x, cotangent = random_input(*SHAPE), random_input(*SHAPE, seed=1)
    r, d = corrections(x, mean, variance, r_max, d_max)
    layer = with_statistics(kn.BatchRenormalization(r_max=r_max, d_max=d_max, dtype="float64"), mean, variance)
    dx = gradients(layer, x, cotangent, training=True)[0]
    numeric = differences(lambda x: (cotangent * renormalized(x, mean, variance, r, d)).sum(), x)
    np.testing.assert_allclose(dx, numeric, rtol=1e-6, atol=1e-7)
    layer = with_statistics(kn.BatchRenormalization(r_max=r_max, d_max=d_max, dtype="float64"), mean, variance)
    np.testing.assert_allclose(
        call(layer, x, training=True), renormalized(x, mean, variance, r, d), rtol=1e-9, atol=1e-9
    )


def test_the_moving_average_is_that_of_the_standard_deviation():
    layer = kn.BatchRenormalization(momentum=0.7)
    mean, sigma = np.zeros(6), np.full(6, np.sqrt(1 + EPSILON))
    for step in range(5):
        x = drifting(step)
        call(layer, x, training=True)
        mean = 0.7 * mean + 0.3 * x.mean(0)
        sigma = 0.7 * sigma + 0.3 * np.sqrt(x.var(0) + EPSILON)
    np.testing.assert_allclose(array(layer.moving_mean), mean, rtol=1e-5)
    np.testing.assert_allclose(array(layer.moving_variance), sigma**2 - EPSILON, rtol=1e-5)


@keras_with_renorm
def test_it_equals_keras_with_renorm_over_20_steps_once_its_weights_are_moved_over():
    clips = {"rmax": 2.0, "rmin": 0.5, "dmax": 1.0}
    theirs = keras.layers.BatchNormalization(renorm=True, renorm_clipping=clips, renorm_momentum=0.9, momentum=0.9)
    ours = kn.BatchRenormalization(momentum=0.9, r_max=2.0, d_max=1.0)
    theirs.build((None, 6))
    ours.build((None, 6))
    ours.gamma.assign(theirs.gamma)
    ours.beta.assign(theirs.beta)
    ours.moving_mean.assign(theirs.renorm_mean)
    ours.moving_variance.assign(array(theirs.renorm_stddev) ** 2 - EPSILON)
    for step in range(20):
        x = drifting(step)
        np.testing.assert_allclose(call(ours, x, training=True), call(theirs, x, training=True), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(array(ours.moving_mean), array(theirs.moving_mean), rtol=1e-5)
    np.testing.assert_allclose(array(ours.moving_variance), array(theirs.moving_variance), rtol=1e-5)
    np.testing.assert_allclose(call(ours, x), call(theirs, x), rtol=1e-5, atol=1e-5)


def test_the_default_clips_are_those_of_the_paper():
    layer = kn.BatchRenormalization()
    at = {0: (1, 0), 5_000: (1, 0), 15_000: (1 + 2 * 10 / 35, 2.5), 25_000: (1 + 2 * 20 / 35, 5), 60_000: (3, 5)}
    for step, (r_max, d_max) in at.items():
        np.testing.assert_allclose(array(layer.r_max(step)), r_max, rtol=1e-6)
        np.testing.assert_allclose(array(layer.d_max(step)), d_max, rtol=1e-6)


def test_schedules_read_the_step_which_counts_training_only_and_is_saved(tmp_path):
    opened = kn.schedules.PiecewiseLinear([2, 3], [1.0, 100.0])
    shut = kn.schedules.PiecewiseLinear([2, 3], [0.0, 100.0])
    model = keras.Sequential([keras.Input((6,)), kn.BatchRenormalization(momentum=1.0, r_max=opened, d_max=shut)])
    x = random_input(8, 6, dtype="float32")
    standardized = (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON)
    for step in range(6):
        if step == 4:
            model.save(tmp_path / "model.keras")
            model = keras.models.load_model(tmp_path / "model.keras")
        inference = array(model(x, training=False))
        want = standardized if step < 3 else inference
        np.testing.assert_allclose(array(model(x, training=True)), want, rtol=1e-4, atol=1e-4)
        assert int(array(model.layers[0].step)) == step + 1


SCHEDULES = {
    "number": 3.0,
    "of Keras": keras.optimizers.schedules.PiecewiseConstantDecay([5], [1.0, 3.0]),
    "our own": kn.schedules.PiecewiseLinear([0, 9], [1, 2]),
}


@pytest.mark.parametrize("r_max", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_numbers_and_schedules_survive_the_config(r_max):
    layer = kn.BatchRenormalization(r_max=r_max)
    again = kn.BatchRenormalization.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert type(again.r_max) is type(layer.r_max)


def test_any_function_of_the_step_is_a_schedule():
    layer = kn.BatchRenormalization(r_max=lambda step: 1.0 + step, d_max=lambda step: 0.0 * step)
    x = random_input(8, 6, dtype="float32")
    standardized = (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON)
    np.testing.assert_allclose(call(layer, x, training=True), standardized, rtol=1e-5, atol=1e-5)
    r = np.clip(np.sqrt(x.var(0) + EPSILON) / np.sqrt(array(layer.moving_variance) + EPSILON), 0.5, 2.0)
    np.testing.assert_allclose(call(layer, x, training=True), r * standardized, rtol=1e-4, atol=1e-4)
