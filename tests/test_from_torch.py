"""What docs/migration.md says of torch, against torch itself; these run where torch is installed."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_norm as kn
from support.backends import array, call
from support.cases import random_input

torch = pytest.importorskip("torch", reason="its subject is torch, which is not installed")
parametrizations = torch.nn.utils.parametrizations

PAGE = (Path(__file__).parent.parent / "docs" / "migration.md").read_text()
SECTION = PAGE[PAGE.index("## From `torch.nn`") : PAGE.index("## With no counterpart there")]
X = random_input(5, 6, 7, 8, dtype="float32")
EPSILON = {"epsilon": 1e-5}


@pytest.fixture(scope="module")
def page():
    names = {}
    (block,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    exec(compile(block, "migration.md", "exec"), names)
    return names


def with_random_weights(module):
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return module


def state_of(module):
    return {name: value.cpu().numpy() for name, value in module.state_dict().items()}


def torch_call(module, x):
    """Of inputs with channels last, as there with channels first."""
    y = module(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
    return np.moveaxis(y.detach().numpy(), 1, -1)


def assert_equal(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


CASES = {
    "BatchNorm2d": (torch.nn.BatchNorm2d(8), kn.BatchNormalization(momentum=0.9, **EPSILON)),
    "BatchNorm2d without affine": (
        torch.nn.BatchNorm2d(8, affine=False),
        kn.BatchNormalization(center=False, scale=False, **EPSILON),
    ),
    "GroupNorm": (torch.nn.GroupNorm(4, 8), kn.GroupNormalization(4, **EPSILON)),
    "GroupNorm of one group": (torch.nn.GroupNorm(1, 8), kn.LayerNormalization(axis=None, **EPSILON)),
    "GroupNorm without bias": (torch.nn.GroupNorm(4, 8, bias=False), kn.GroupNormalization(4, center=False, **EPSILON)),
    "InstanceNorm2d": (
        torch.nn.InstanceNorm2d(8),
        kn.InstanceNormalization(center=False, scale=False, **EPSILON),
    ),
    "InstanceNorm2d with affine": (torch.nn.InstanceNorm2d(8, affine=True), kn.InstanceNormalization(**EPSILON)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_of_torch_predicts_the_same_here(page, name):
    module, layer = CASES[name]
    with_random_weights(module)
    torch_call(module, X + 1)  # moves the moving statistics
    module.eval()
    layer.build(X.shape)
    page["carry"](state_of(module), layer)
    assert_equal(call(layer, X), torch_call(module, X))


@pytest.mark.parametrize(("sizes", "axis"), [((8,), -1), ((7, 8), (-2, -1))])
def test_layer_norm_predicts_the_same_here(page, sizes, axis):
    module = with_random_weights(torch.nn.LayerNorm(sizes))
    layer = kn.LayerNormalization(axis, **EPSILON)
    layer.build(X.shape)
    page["carry"](state_of(module), layer)
    assert_equal(call(layer, X), module(torch.from_numpy(X)).detach().numpy())


def test_axis_1_keeps_the_layout_of_torch():
    x = np.moveaxis(X, -1, 1).copy()
    assert_equal(
        call(kn.GroupNormalization(4, axis=1, **EPSILON), x), torch.nn.GroupNorm(4, 8)(torch.from_numpy(x)).detach()
    )


def test_the_moving_variance_of_torch_is_the_unbiased_one():
    module, layer = torch.nn.BatchNorm2d(8), kn.BatchNormalization(momentum=0.9, **EPSILON)
    assert_equal(call(layer, X, training=True), torch_call(module, X))
    n = X[..., 0].size
    assert_equal(array(layer.moving_mean), module.running_mean.numpy())
    assert_equal((array(layer.moving_variance) - 0.9) * n / (n - 1), module.running_var.numpy() - 0.9)


def test_without_gradients_the_moving_statistics_move_there_and_not_here():
    module, layer = torch.nn.BatchNorm2d(8).requires_grad_(False), kn.BatchNormalization(trainable=False)
    torch_call(module, X)
    call(layer, X, training=True)
    assert not np.allclose(module.running_mean.numpy(), 0)
    assert np.allclose(array(layer.moving_mean), 0)


WRAPPED = {
    "weight_norm of Linear": (
        lambda: parametrizations.weight_norm(torch.nn.Linear(8, 4)),
        lambda: kn.WeightNormalization(keras.layers.Dense(4)),
    ),
    "weight_norm of Conv2d": (
        lambda: parametrizations.weight_norm(torch.nn.Conv2d(8, 5, 3)),
        lambda: kn.WeightNormalization(keras.layers.Conv2D(5, 3)),
    ),
    "weight_norm of ConvTranspose2d": (
        lambda: parametrizations.weight_norm(torch.nn.ConvTranspose2d(8, 5, 3), dim=1),
        lambda: kn.WeightNormalization(keras.layers.Conv2DTranspose(5, 3)),
    ),
    "spectral_norm of Linear": (
        lambda: parametrizations.spectral_norm(torch.nn.Linear(8, 4)),
        lambda: kn.SpectralNormalization(keras.layers.Dense(4)),
    ),
    "spectral_norm of Conv2d": (
        lambda: parametrizations.spectral_norm(torch.nn.Conv2d(8, 5, 3)),
        lambda: kn.SpectralNormalization(keras.layers.Conv2D(5, 3)),
    ),
    "spectral_norm of ConvTranspose2d": (
        lambda: parametrizations.spectral_norm(torch.nn.ConvTranspose2d(8, 5, 3)),
        lambda: kn.SpectralNormalization(keras.layers.Conv2DTranspose(5, 3)),
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_parametrization_of_torch_predicts_the_same_here(page, name):
    make_module, make_wrapper = WRAPPED[name]
    x = X[:, 0, 0] if "Linear" in name else X
    module, wrapper = with_random_weights(make_module()), make_wrapper()
    for _ in range(100 if "spectral" in name else 1):  # until u has converged
        torch_call(module, x)
    module.eval()
    wrapper.build(x.shape)
    page["carry_kernel"](state_of(module), wrapper)
    assert_equal(call(wrapper, x), torch_call(module, x))


def test_the_page_names_every_normalization_of_torch():
    names = [name for name in vars(torch.nn) if name.endswith("Norm") or re.search(r"Norm\dd$", name)]
    assert [name for name in names if f"`{name}" not in SECTION and "Lazy" not in name] == []
