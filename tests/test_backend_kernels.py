"""Every kernel against the reference, on every set, dtype and way to run; and layers of a user in a few lines."""

import keras
import numpy as np
import pytest

from keras_norm import kernels, sets
from keras_norm.arguments import resolve_weight
from keras_norm.kernels import reference as definition
from keras_norm.layers.base import Normalization
from keras_norm.layers.base_batch import BaseBatchNormalization
from keras_norm.sets import Groups, Sets, axes_except
from support import reference
from support.backends import BACKEND, array, call, gradients, jax_only, torch_only
from support.cases import random_input, same_channel

ops = keras.ops

SETS = {
    "batch": lambda x, c: sets.batch(x, c),
    "instance": lambda x, c: sets.instance(x, c),
    "group": lambda x, c: sets.group(x, c, 2),
    "along the channels": lambda x, c: sets.along([c]),
    "along all but the batch": lambda x, c: sets.along(axes_except(x, 0)),
    "ghosts": lambda x, c: Sets(axes_except(x, 0, c), Groups(0, 2)),
}
WEIGHTS = {
    "per channel": lambda x, c: [x.shape[c] if a == c else 1 for a in range(x.ndim)],
    "along the set": lambda x, c: list(x.shape),
    "per sample": lambda x, c: [x.shape[a] if a in (0, c) else 1 for a in range(x.ndim)],
    "none": None,
}
# Short sums and long ones, that are cut into runs; channels last, first and between.
PLACES = [
    ((4, 3, 5, 6), 3),
    ((4, 6, 3, 5), 1),
    ((2, 33, 40, 4), 3),
    ((2, 4, 33, 40), 1),
    ((6, 4), 1),
    ((2, 5, 4, 700), 2),
]


def ways():
    """The ways in which this backend's kernel runs."""
    if BACKEND == "tensorflow":
        from keras_norm.kernels import tensorflow as kernel

        by = {
            "operations": kernel.Way(kernel.as_operations),
            "on a CPU": kernel.Way(kernel.as_operations, on_cpu=True),
            "few": kernel.Way(kernel.as_operations, on_cpu=True, few_operations=True),
            "XLA": kernel.Way(kernel.as_xla, on_cpu=True),
            "XLA, one pass": kernel.Way(kernel.as_xla_if_recurring, one_pass=True),
        }
        return {name: {"way": way} for name, way in by.items()}
    if BACKEND == "jax":
        return {"two passes": {"one_pass": False}, "one pass": {"one_pass": True}}
    return {"values are read": {"is_readable": True}, "no value is read": {"is_readable": False}}


@pytest.mark.parametrize("options", [pytest.param(options, id=name) for name, options in ways().items()])
@pytest.mark.parametrize("weights", [pytest.param("per channel", marks=pytest.mark.quick), *list(WEIGHTS)[1:]])
@pytest.mark.parametrize("centered", [True, False], ids=["about the mean", "about zero"])
@pytest.mark.parametrize("chosen", SETS)
def test_every_kernel_gives_the_numbers_of_the_reference(chosen, centered, weights, options):
    ran = []
    for shape, channel in PLACES:
        x = random_input(*shape, dtype="float32")
        of = SETS[chosen](x, channel)
        gamma = beta = None
        if WEIGHTS[weights] is not None:
            sizes = WEIGHTS[weights](x, channel)
            gamma, beta = (ops.convert_to_tensor(random_input(*sizes, seed=s, dtype="float32")) for s in (1, 2))
        given = ops.convert_to_tensor(x), of, gamma, beta, 1e-3
        found = kernels.kernel.standardize(*given, centered=centered, pool=None, **options)
        want, moments = definition.standardize(*given, centered=centered)
        if found is None:
            continue
        ran.append(shape)
        np.testing.assert_allclose(array(found[0]), array(want), rtol=1e-5, atol=1e-5)
        if found[1] is not None:
            for got, expected in zip(found[1], moments, strict=True):
                np.testing.assert_allclose(*np.broadcast_arrays(array(got), array(expected)), rtol=1e-5, atol=1e-6)
    if "way" in options and options["way"].few_operations:
        handed_back = not centered
    else:
        handed_back = BACKEND == "torch" and (
            not centered or chosen == "ghosts" or weights in ("along the set", "per sample")
        )
    assert ran or handed_back


@pytest.mark.parametrize("options", [pytest.param(options, id=name) for name, options in ways().items()])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("centered", [True, False], ids=["about the mean", "about zero"])
@pytest.mark.parametrize("chosen", SETS)
def test_gradients_of_every_kernel_are_those_of_the_reference(chosen, centered, dtype, options):
    """Through a layer whose set and kernel are fixed, so that each backend takes its gradients as ever."""

    class Fixed(Normalization):
        def kernel(self, *given):
            return definition.standardize(*given, centered=centered)

        def _normalize(self, x, training, mask):
            weights = (resolve_weight("Fixed", "w", w, [len(x.shape) - 1], x) for w in (self.gamma, self.beta))
            return self.kernel(x, SETS[chosen](x, 3), *weights, self.epsilon)[0]

    class Fast(Fixed):
        def kernel(self, *given):
            found = kernels.kernel.standardize(*given, centered=centered, pool=None, **options)
            return found or super().kernel(*given)

    shape = (2, 33, 40, 4)
    x, dy = random_input(*shape, dtype="float32"), random_input(*shape, seed=1, dtype="float32")
    policy = dtype if dtype in ("float32", "float64") else f"mixed_{dtype}"
    x, dy = (ops.cast(t, dtype) for t in (x, dy))
    want, got = (gradients(layer(dtype=policy), x, dy) for layer in (Fixed, Fast))
    unit = {"float64": 1e-10, "float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}[dtype]
    for fast, plain in zip(got, want, strict=True):
        fast, plain = fast.astype("float64"), plain.astype("float64")
        np.testing.assert_allclose(fast, plain, rtol=unit, atol=unit * np.abs(plain).max())


# Derivatives of other kinds


@jax_only
@pytest.mark.quick
@pytest.mark.parametrize("chosen", SETS)
def test_jax_takes_forward_derivatives_second_ones_and_batches(chosen):
    import jax

    gamma, beta = random_input(4, seed=1), random_input(4, seed=2)
    x, step = random_input(4, 2, 3, 4), random_input(4, 2, 3, 4, seed=3)

    def norm(x, gamma=gamma):
        return kernels.standardize(x, SETS[chosen](x, 3), gamma, beta, 1e-3)[0]

    def along_step(f):
        return (f(x + 1e-5 * step) - f(x - 1e-5 * step)) / 2e-5

    tangent = jax.jit(lambda x: jax.jvp(norm, (x,), (step,))[1])(x)
    np.testing.assert_allclose(array(tangent), along_step(norm), rtol=1e-6, atol=1e-6)
    gradient = jax.grad(lambda x: (norm(x) ** 3).sum())
    second = jax.jvp(gradient, (x,), (step,))[1]
    np.testing.assert_allclose(array(second), along_step(gradient), rtol=1e-5, atol=1e-5)
    reverse = jax.grad(lambda x: (gradient(x) * step).sum())(x)  # the Hessian is symmetric
    np.testing.assert_allclose(array(reverse), array(second), rtol=1e-8, atol=1e-8)
    batches = np.stack([x, 2 * x + step])
    for batch, y in zip(batches, array(jax.vmap(norm)(batches)), strict=True):
        np.testing.assert_allclose(y, array(norm(batch)), rtol=1e-9, atol=1e-9)
    by_gamma = jax.jacfwd(lambda gamma: norm(x, gamma))(gamma), jax.jacrev(lambda gamma: norm(x, gamma))(gamma)
    np.testing.assert_allclose(array(by_gamma[0]), array(by_gamma[1]), rtol=1e-9, atol=1e-9)


@jax_only
@pytest.mark.quick
def test_jax_keeps_x_and_its_moments_for_the_backward_pass():
    import jax

    x, gamma = random_input(8, 16, 16, 6, dtype="float32"), np.ones(6, "float32")
    _, backward = jax.vjp(lambda x, g: kernels.standardize(x, sets.group(x, 3, 2), g, None, 1e-3)[0], x, gamma)
    large = [t for t in jax.tree.leaves(backward) if t.size >= x.size]
    assert len(large) == 1
    np.testing.assert_array_equal(array(large[0]).ravel(), x.ravel())


@torch_only
@pytest.mark.quick
@pytest.mark.parametrize("is_readable", [True, False], ids=["values are read", "no value is read"])
@pytest.mark.parametrize("chosen", [name for name in SETS if name != "ghosts"])
def test_torch_takes_first_and_second_derivatives(chosen, is_readable):
    import torch

    sizes = (2, 4) if chosen == "along all but the batch" else (4,)
    x, gamma = (torch.tensor(random_input(*s), requires_grad=True) for s in ((3, 2, 4), sizes))

    def norm(x, gamma):
        of = SETS[chosen](x, 2)
        found = kernels.kernel.standardize(x, of, gamma, None, 1e-3, centered=True, pool=None, is_readable=is_readable)
        return found[0]

    assert torch.autograd.gradcheck(norm, (x, gamma))
    assert torch.autograd.gradgradcheck(norm, (x, gamma))


@torch_only
@pytest.mark.quick
@pytest.mark.parametrize("deviations", [6, 10, 1e4], ids="{} deviations from zero".format)
@pytest.mark.parametrize("chosen", ["instance", "group", "along the channels"])
def test_torch_is_accurate_if_the_mean_of_one_sample_is_large(chosen, deviations):
    """The kernels alone have an error of 2e-3 in y at 1e4 deviations."""
    import torch

    x = np.random.default_rng(0).normal(0.0, 1.0, (4, 8, 8, 64)).astype("float32")
    x[2] += deviations
    dy = np.random.default_rng(1).normal(0.0, 1.0, x.shape)

    def y_and_dx(standardize, dtype):
        given = torch.tensor(x.astype(dtype), requires_grad=True)
        y, _ = standardize(given, SETS[chosen](x, 3), None, None, 1e-3)
        y.backward(torch.tensor(dy.astype(dtype)))
        return y.detach(), given.grad

    found, want = y_and_dx(kernels.standardize, "float32"), y_and_dx(definition.standardize, "float64")
    for got, expected in zip(found, want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=5e-6)


@torch_only
@pytest.mark.quick
@pytest.mark.parametrize("chosen", ["instance", "group", "along the channels"])
def test_torch_maps_over_batches(chosen):
    """In `vmap` no value can be read."""
    import torch

    x = torch.tensor(random_input(3, 4, 5, 6, 8))

    def norm(x):
        return kernels.standardize(x, SETS[chosen](x, 3), None, None, 1e-3)[0]

    np.testing.assert_allclose(torch.func.vmap(norm)(x), torch.stack([norm(batch) for batch in x]), rtol=0, atol=1e-12)


# Layers that a user adds


class RootMeanSquare(Normalization):
    """Moments about zero: y = gamma x / sqrt(mean(x^2) + epsilon)."""

    def _normalize(self, x, training, mask):
        axes = self._affine_axes(len(x.shape))
        gamma = resolve_weight("RootMeanSquare", "gamma", self.gamma, axes, x)
        return kernels.standardize(x, sets.along(axes), gamma, None, self.epsilon, centered=False)[0]


class GhostBatches(BaseBatchNormalization):
    """Batch Normalization within `ghosts` runs of neighboring samples."""

    ghosts = 2

    def _sets(self, x):
        (axis,) = self._affine_axes(len(x.shape))
        return Sets(axes_except(x, 0, axis), Groups(0, self.ghosts))

    def _normalize(self, x, training, mask):
        return self._standardize(x, self.gamma, self.beta, mask)[0]


@pytest.mark.quick
def test_a_root_mean_square_layer_is_a_few_lines():
    x = random_input(4, 5, 6)
    layer = RootMeanSquare(center=False, epsilon=1e-3, dtype="float64")
    want = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(call(layer, x), want, rtol=1e-7)
    dy = random_input(4, 5, 6, seed=1)
    numeric = reference.differences(lambda x: (dy * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-3)).sum(), x)
    np.testing.assert_allclose(gradients(layer, x, dy)[0], numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.quick
def test_a_layer_of_ghost_batches_is_a_few_lines():
    x = random_input(4, 3, 6)
    layer = GhostBatches(momentum=0.0, epsilon=1e-3, dtype="float64")
    y = call(layer, x, training=True)
    want = [reference.standardize(part, same_channel, 2, 1e-3) for part in (x[:2], x[2:])]
    np.testing.assert_allclose(y, np.concatenate(want), rtol=1e-7)
    means = [part.mean((0, 1)) for part in (x[:2], x[2:])]
    np.testing.assert_allclose(array(layer.moving_mean), np.mean(means, 0), rtol=1e-7)
