"""The pairs of flax on docs/migration.md compute the same; these run where flax is installed."""

import numpy as np
import pytest

from support import peers
from support.backends import array, call
from support.cases import random_input

jax = pytest.importorskip("jax", reason="its subject is flax, which needs jax")
nnx = pytest.importorskip("flax.nnx", reason="its subject is flax, which is not installed")
linen = pytest.importorskip("flax.linen", reason="its subject is flax, which is not installed")

TITLE = "From flax"
PAIRS = peers.pairs_of(TITLE, "flax")
X = random_input(5, 6, 7, 8, dtype="float32")


def assert_equal(value, expected):
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


def with_random_weights(tree):
    random = np.random.default_rng(0)
    return jax.tree.map(lambda value: np.float32(random.uniform(0.5, 1.5, value.shape)), tree)


class Linen:
    """A module of flax.linen with its variables, called as those of flax.nnx are."""

    def __init__(self, names):
        self.module, self.names, self.average = names["old"], names, False

    def __call__(self, x):
        y, updated = self.module.apply(
            self.names["variables"], x, use_running_average=self.average, mutable=["batch_stats"]
        )
        self.names["variables"] = {**self.names["variables"], **updated}
        return y

    def train(self):
        self.average = False

    def eval(self):
        self.average = True

    mean = property(lambda self: self.names["variables"]["batch_stats"]["mean"])
    var = property(lambda self: self.names["variables"]["batch_stats"]["var"])


def before_and_after(pair, x):
    """The module with trained statistics, and the layer as the page makes it."""
    names = {}
    peers.run(pair.setup + pair.before, names)
    old = names["old"]
    if isinstance(old, linen.Module):
        names["variables"] = with_random_weights(names["variables"])
        old = Linen(names)
    else:
        nnx.update(old, with_random_weights(nnx.state(old, nnx.Param)))
    old.train()
    for _ in range(100 if "Spectral" in pair.name else 3):  # until u has converged
        old(x + 1)
    peers.run(pair.after, names)
    new = names["new"]
    if not new.built:
        new.build((None, *x.shape[1:]))
        names["copy_weights"](old, new)
    return old, new


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_module_of_flax_computes_the_same_here(pair):
    x = peers.inputs(pair, X)
    old, new = before_and_after(pair, x)
    old.eval()
    assert_equal(call(new, x), old(x))
    old.train()
    assert_equal(call(new, x[:3], training=True), old(x[:3]))
    if "BatchNorm" in pair.name:
        assert_equal(array(new.moving_mean), old.mean[...])
        assert_equal(array(new.moving_variance), old.var[...])


def test_the_page_names_every_normalization_of_flax():
    section = peers.section(TITLE)
    for library in (nnx, linen):
        assert [name for name in vars(library) if name.endswith("Norm") and f"`{name}" not in section] == []
