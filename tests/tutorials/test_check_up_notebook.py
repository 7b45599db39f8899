"""What the notebook on the check-up concludes is what its stored outputs say."""

import pytest

from support.backends import tensorflow_only
from support.notebooks import tables_of, text_of

pytestmark = tensorflow_only
NAME = "09_check_up"


@pytest.fixture(scope="module")
def accuracy():
    """Each accuracy in percent, by the names of row and column; what a later table repeats is the same."""
    cells = {}
    for table in tables_of(NAME):
        for place, cell in table.items():
            if cell.endswith("%"):
                assert cells.setdefault(place, float(cell[:-1])) == float(cell[:-1])
    return cells


@pytest.fixture(scope="module")
def modes(accuracy):
    columns = "in `fit`", "in `evaluate`, same images"
    return {row: tuple(accuracy[row, name] for name in columns) for row, column in accuracy if column == columns[0]}


def test_a_healthy_network_is_as_accurate_in_evaluate_as_in_fit(modes):
    fit, evaluate = modes["healthy"]
    assert abs(fit - evaluate) < 2


def test_stale_statistics_show_in_evaluate_and_recalibration_repairs_them(modes):
    fit, evaluate = modes["momentum=0.999"]
    assert evaluate < fit - 20
    fit, evaluate = modes["recalibrated"]
    assert evaluate >= fit


def test_batches_of_two_fail_and_groups_do_not(modes):
    assert modes["BN, 2 images"][0] < modes["BN, 2 images"][1] < modes["GN, 2 images"][0]


def test_instance_normalization_of_one_pixel_gives_the_same_answer_for_all_images(modes):
    assert modes["instance normalization"][1] < 15 < 80 < modes["groups in its place at the end"][1]


def test_padding_changes_the_statistics_of_keras_and_not_ours(accuracy):
    padding = ("0", "7", "28", "84")
    keras, ours = ([accuracy[name, f"{n} rows of padding"] for n in padding] for name in ("keras.layers", "keras_norm"))
    assert keras == sorted(keras, reverse=True) and keras[0] - keras[-1] > 20
    assert set(ours) == {keras[0]}


def test_a_frozen_network_forgets_unless_its_normalizations_are_frozen_too(accuracy):
    before, after, second = ("first head, before", "first head, after", "second head")
    assert accuracy["convolutions", after] < accuracy["convolutions", before] - 20
    assert accuracy["normalizations too", after] == accuracy["normalizations too", before]
    assert accuracy["normalizations too", second] < accuracy["convolutions", second]


def test_the_findings_are_gone_after_the_cures():
    assert text_of(NAME).count("\n[]\n") + text_of(NAME).startswith("[]\n") >= 4
