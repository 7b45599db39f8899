"""What the quickstart concludes is what its stored outputs say."""

import pytest

from support.backends import tensorflow_only
from support.notebooks import tables_of, text_of

pytestmark = tensorflow_only
NAME = "01_quickstart"


@pytest.fixture(scope="module")
def errors():
    table = tables_of(NAME)[0]
    return {name: table.measured(name, "10") for name in ("BN", "GN", "LN", "IN", "none")}


def test_without_normalization_the_network_barely_starts(errors):
    normalized = max(errors[name].mean for name in ("BN", "GN", "IN"))
    assert errors["none"].mean - errors["none"].spread > 5 * normalized


def test_batch_group_and_instance_normalization_end_below_two_percent(errors):
    assert errors["BN"].mean < errors["GN"].mean < 2
    assert errors["IN"].mean < 2


def test_layer_normalization_learns_most_slowly_of_the_normalizations(errors):
    others = max(errors[name].mean for name in ("BN", "GN", "IN"))
    assert errors["LN"].mean - errors["LN"].spread > others


def test_a_replaced_normalization_needs_a_short_fine_tuning():
    table = tables_of(NAME)[1]
    trained, replaced, tuned = (float(cell) for cell in table.values())
    assert trained < tuned < 5 < replaced


def test_the_sets_are_those_of_the_definition():
    assert text_of(NAME).count("sets equal: True") == 4
