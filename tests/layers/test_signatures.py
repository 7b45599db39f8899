"""What help() and Shift-Tab show of a layer."""

import inspect
import re

import pytest

import keras_norm as kn

GIVEN = {kn.GhostBatchNormalization: {"ghost_size": 2}}
"""Arguments without a default."""
LAYERS = [
    kn.AdaptiveInstanceNormalization,
    kn.BatchInstanceNormalization,
    kn.BatchNormalization,
    kn.BatchRenormalization,
    kn.DynamicTanh,
    kn.FilterResponseNormalization,
    kn.GhostBatchNormalization,
    kn.GlobalResponseNormalization,
    kn.GroupNormalization,
    kn.InstanceNormalization,
    kn.LayerNormalization,
    kn.MeanOnlyBatchNormalization,
    kn.RMSNormalization,
    kn.SwitchableNormalization,
    kn.ThresholdedLinearUnit,
]
every_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.__name__)
pytestmark = pytest.mark.quick


def arguments_of(layer):
    parameters = inspect.signature(layer).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD} | GIVEN.get(layer, {})


@every_layer
def test_the_signature_lists_every_argument_with_its_default(layer):
    listed = arguments_of(layer)
    plain = layer(**GIVEN.get(layer, {}), name="same")
    assert layer(**listed, name="same").get_config() == plain.get_config()
    assert listed.keys() == plain.get_config().keys() - {"name", "trainable", "dtype"}


@every_layer
def test_arguments_are_taken_by_position_in_the_order_of_the_signature(layer):
    parameters = inspect.signature(layer).parameters.values()
    listed = arguments_of(layer)
    values = [listed[p.name] for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert layer(*values, name="same").get_config() == layer(**GIVEN.get(layer, {}), name="same").get_config()


@every_layer
def test_the_docstring_has_a_line_on_every_argument(layer):
    block = re.search(r"^Args:\n((?:    .*\n)+)", layer.__doc__, re.MULTILINE).group(1)
    told = {name.strip() for line in re.findall(r"^    (\S[^:]*):", block, re.MULTILINE) for name in line.split(",")}
    assert told == {*arguments_of(layer), "**kwargs"}


def test_the_signature_of_a_layer_itself_is_that_of_its_call():
    assert list(inspect.signature(kn.GroupNormalization()).parameters) == ["args", "kwargs"]


def test_a_subclass_with_its_own_arguments_lists_them_first():
    class Mine(kn.GroupNormalization):
        """Mine.

        Args:
            strength: how strong.
            groups: see `GroupNormalization`.
        """

        def __init__(self, strength=1.0, *args, **kwargs):
            super().__init__(*args, **kwargs)

    assert list(inspect.signature(Mine).parameters)[:3] == ["strength", "groups", "axis"]
    assert "strength: how strong." in Mine.__doc__
    assert "groups: the number of groups" in Mine.__doc__
