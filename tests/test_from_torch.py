"""The pairs of torch on docs/migration.md compute the same; these run where torch is installed."""

import re

import keras
import numpy as np
import pytest

import keras_norm as kn
from support import peers
from support.backends import array, call
from support.cases import random_input

torch = pytest.importorskip("torch", reason="its subject is torch, which is not installed")

TITLE = "From `torch.nn`"
PAIRS = peers.pairs_of(TITLE, "torch")
X = random_input(5, 6, 7, 8, dtype="float32")


def assert_equal(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


def with_random_weights(module):
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return module


def torch_call(module, x):
    """On inputs with the channels last, unless the module's sizes are those of the last axes."""
    if isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm):
        return module(torch.from_numpy(x)).detach().numpy()
    y = module(torch.from_numpy(np.moveaxis(x, -1, 1).copy()))
    return np.moveaxis(y.detach().numpy(), 1, -1)


def before_and_after(pair):
    """The module with trained statistics, the layer as the page makes it, and inputs."""
    names = {}
    peers.run(pair.setup + pair.before, names)
    old, x = with_random_weights(names["old"]), peers.inputs(pair, X)
    for _ in range(100 if "spectral" in pair.name else 3):  # until u has converged
        torch_call(old, x + 1)
    peers.run(pair.after, names)
    new = names["new"]
    if not new.built:
        new.build((None, *x.shape[1:]))
        names["copy_kernel" if "parametrizations" in pair.name else "copy_weights"](old, new)
    return old, new, x


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_module_of_torch_computes_the_same_here(pair):
    old, new, x = before_and_after(pair)
    old.eval()
    assert_equal(call(new, x), torch_call(old, x))
    old.train()
    assert_equal(call(new, x[:3], training=True), torch_call(old, x[:3]))


def test_the_moving_variance_of_torch_is_the_unbiased_one():
    old, new, x = before_and_after(PAIRS[0])
    before = array(new.moving_variance)
    call(new, x, training=True)
    torch_call(old, x)
    n = x[..., 0].size
    assert_equal(array(new.moving_mean), old.running_mean.numpy())
    assert_equal((array(new.moving_variance) - 0.9 * before) * n / (n - 1), old.running_var.numpy() - 0.9 * before)


def test_axis_1_keeps_the_layout_of_torch():
    x = np.moveaxis(X, -1, 1).copy()
    layer = kn.GroupNormalization(4, axis=1, epsilon=1e-5)
    assert_equal(call(layer, x), torch.nn.GroupNorm(4, 8)(torch.from_numpy(x)).detach())


def test_layer_norm_of_three_sizes_is_that_of_three_axes():
    x = np.moveaxis(X, -1, 1).copy()
    module = torch.nn.LayerNorm(x.shape[1:], elementwise_affine=False)
    layer = kn.LayerNormalization(axis=(1, 2, 3), epsilon=1e-5, center=False, scale=False)
    assert_equal(call(layer, x), module(torch.from_numpy(x)))


def test_a_depthwise_kernel_of_torch_is_the_transposed_one():
    module, layer = (
        torch.nn.Conv2d(8, 16, 3, groups=8, bias=False),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
    )
    layer.build((None, 6, 7, 8))
    kernel = np.moveaxis(module.weight.detach().numpy()[:, 0], 0, -1)  # (height, width, C m)
    layer.kernel.assign(kernel.reshape(3, 3, 8, 2))
    assert_equal(call(layer, X), torch_call(module, X))


def test_without_gradients_the_moving_statistics_move_there_and_not_here():
    module, layer = torch.nn.BatchNorm2d(8).requires_grad_(False), kn.BatchNormalization(trainable=False)
    torch_call(module, X)
    call(layer, X, training=True)
    assert not np.allclose(module.running_mean.numpy(), 0)
    assert np.allclose(array(layer.moving_mean), 0)


def test_the_page_names_every_normalization_of_torch():
    names = [name for name in vars(torch.nn) if name.endswith("Norm") or re.search(r"Norm\dd$", name)]
    section = peers.section(TITLE)
    assert [name for name in names if f"`{name}" not in section and "Lazy" not in name] == []
