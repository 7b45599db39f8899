"""The tables of docs/results.md: each is what its experiment makes of the stored rows."""

import importlib
from pathlib import Path

import pytest

from keras_norm.tutorials import tables
from support.backends import tensorflow_only

pytestmark = tensorflow_only

DOCS = Path(__file__).parents[2] / "docs"
STORED = {  # the rows in docs/results, and the experiment that made them
    "contrast_digits": "contrast",
    "contrast_rho_digits": "contrast",
    "segmentation_digits": "segmentation",
    "detection_digits": "detection",
    "recurrent_pixels": "recurrent",
    "recurrent_text": "recurrent",
    "batch_size_cifar10": "batch_size",
    "batch_size_digits": "batch_size",
    "batch_size_fashion_mnist": "batch_size",
    "distributed_digits": "distributed",
    "weights_classifier_digits": "weights",
    "weights_gan_digits": "weights",
    "fine_tuning_digits": "fine_tuning",
    "groups_digits": "groups",
    "video_digits": "video",
}


@pytest.mark.parametrize(("rows", "experiment"), STORED.items())
def test_the_tables_are_recomputed_from_the_stored_rows(rows, experiment):
    results = importlib.import_module(experiment).results(tables.read(DOCS / "results" / f"{rows}.csv"))
    page = (DOCS / "results.md").read_text(encoding="utf-8")
    missing = [name for name, table in results.items() if tables.markdown(table, name) not in page]
    assert missing == []


def test_every_file_of_rows_has_its_experiment():
    others = {path.stem for path in (DOCS / "results").glob("speed_*.csv")}  # of the benchmarks
    others.add("replacement_digits")  # whose table is on a page with a test for itself
    assert {path.stem for path in (DOCS / "results").glob("*.csv")} - others == set(STORED)
