"""Gradients of PyTorch's weight_norm and spectral_norm in float64; `python torch_gradients.py` writes them anew."""

import json
from functools import partial
from pathlib import Path

import keras
import numpy as np

FILE = Path(__file__).with_suffix(".json")
# The shape of the inputs, and the axes of torch's kernel in the order of Keras' kernel.
CASES = {
    "Dense": ((4, 5), (1, 0)),
    "Conv2D": ((2, 4, 5, 2), (2, 3, 1, 0)),
    "Conv2DTranspose": ((2, 3, 2, 4), (2, 3, 1, 0)),
}
ITERATIONS = 300
# On torch Keras' own products of float64 are of float32.
UNIT = 1e-5 if keras.backend.backend() == "torch" else 1e-9
assert_close = partial(np.testing.assert_allclose, rtol=UNIT, atol=UNIT)


def read(norm, case):
    """Inputs, weights, output and gradients in Keras' layout."""
    fixtures = json.loads(FILE.read_text())
    return {name: np.array(value) for name, value in fixtures[norm][case].items()}


def wrapped(wrapper, case, fixture, **kwargs):
    """The same layer here, built, with the kernel of the fixture."""
    make = {
        "Dense": lambda: keras.layers.Dense(3, use_bias=False, dtype="float64"),
        "Conv2D": lambda: keras.layers.Conv2D(3, 2, use_bias=False, dtype="float64"),
        "Conv2DTranspose": lambda: keras.layers.Conv2DTranspose(3, 2, strides=2, use_bias=False, dtype="float64"),
    }[case]
    layer = wrapper(make(), **kwargs)
    layer.build(fixture["x"].shape)
    layer.layer.kernel.assign(fixture["kernel"])
    return layer


def _computed(norm, case):
    """What torch gives for random inputs, weights and cotangent."""
    import torch
    from torch.nn.utils import parametrizations

    torch.manual_seed(0)
    shape, order = CASES[case]
    layer = {
        "Dense": lambda: torch.nn.Linear(5, 3, bias=False),
        "Conv2D": lambda: torch.nn.Conv2d(2, 3, 2, bias=False),
        "Conv2DTranspose": lambda: torch.nn.ConvTranspose2d(4, 3, 2, stride=2, bias=False),
    }[case]().double()
    units = 1 if case == "Conv2DTranspose" else 0
    x = torch.randn(shape, dtype=torch.float64)
    inputs = x if x.ndim == 2 else x.permute(0, 3, 1, 2)
    found = {"x": x}
    if norm == "weight_norm":
        parametrizations.weight_norm(layer, dim=units)
        g, kernel = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        g.data.uniform_(0.5, 2.0)
        found["g"] = g.reshape(-1)
    else:
        parametrizations.spectral_norm(layer, n_power_iterations=ITERATIONS, dim=units)
        g, kernel = None, layer.parametrizations.weight.original
    y = layer(inputs)
    y = y if y.ndim == 2 else y.permute(0, 2, 3, 1)
    cotangent = torch.randn_like(y)
    (y * cotangent).sum().backward()
    found |= {"kernel": kernel.permute(order), "y": y, "cotangent": cotangent}
    found["gradient of kernel"] = kernel.grad.permute(order)
    if g is not None:
        found["gradient of g"] = g.grad.reshape(-1)
    return {name: np.round(value.detach().numpy(), 13).tolist() for name, value in found.items()}


if __name__ == "__main__":
    norms = ("weight_norm", "spectral_norm")
    FILE.write_text(json.dumps({norm: {case: _computed(norm, case) for case in CASES} for norm in norms}) + "\n")
