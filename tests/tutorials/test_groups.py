"""The experiment on what the groups are: on a tiny budget, its measures, and what its stored rows show."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_selection import f_classif

import groups
import keras_norm as kn
from keras_norm.tutorials import grouping, tables
from support.backends import tensorflow_only
from support.notebooks import tables_of

pytestmark = tensorflow_only

STORED = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.slow
def test_the_experiment_writes_a_row_for_each_layer_of_each_run_and_the_figure(data_dir, tmp_path):
    budget = ["--epochs", "2", "--seeds", "1", "--train-images", "128", "--channels", "8", "--groups", "4"]
    done = subprocess.run(
        [sys.executable, groups.__file__, *budget, "--output", tmp_path],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "groups.csv").read_text().splitlines()))
    found = [(int(row["seed"]), row["grouping"], int(row["layer"])) for row in rows]
    assert found == [(0, name, layer) for name in groups.GROUPINGS for layer in (1, 2, 3)]
    by_index = [row for row in rows if row["grouping"] == "by_index"]
    other = [row for row in rows if row["grouping"] == "similar"]
    assert [row["mean_start"] for row in by_index] == [row["mean_start"] for row in other]
    assert [row["mean_early"] for row in by_index] != [row["mean_early"] for row in other]
    assert (tmp_path / "groups.png").read_bytes().startswith(b"\x89PNG")
    assert "| digits, test error (%) | trained | trained, then other groups |" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--groups 5", "must divide the channels, with several in a group. Received: 5 of 32 channels"),
        ("--groups 32", "Received: 32 of 32 channels"),
        ("--groupings like", "invalid choice: 'like'"),
        ("--train-images 20", "Received: batch_size=32 of 20 images"),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_trained(flags, message, data_dir, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        groups.main([*flags.split(), "--data-dir", str(data_dir), "--output", str(tmp_path / "none")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_channels_of_a_group_are_neighbors_in_the_order():
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(3, 4, 5, 6)).astype("float32")
    layer = grouping.Regrouped(groups=2)
    layer.build(x.shape)
    layer.order.assign([4, 0, 3, 5, 1, 2])
    layer.gamma.assign(np.arange(1.0, 7.0))
    layer.beta.assign(np.arange(6.0))
    expected = np.empty_like(x)
    for members in ([4, 0, 3], [5, 1, 2]):
        group = x[..., members]
        mean, variance = (np.asarray(f(group, axis=(1, 2, 3), keepdims=True)) for f in (np.mean, np.var))
        expected[..., members] = (group - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(layer(x), np.arange(1.0, 7.0) * expected + np.arange(6.0), rtol=1e-4, atol=1e-4)


def test_in_the_order_of_the_index_it_is_group_normalization():
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(3, 4, 5, 6)).astype("float32")
    np.testing.assert_allclose(grouping.Regrouped(3)(x), kn.GroupNormalization(3)(x), rtol=1e-5, atol=1e-5)


def test_the_intraclass_correlation_follows_from_the_f_of_an_analysis_of_variance():
    values = np.random.default_rng(0).normal(size=24)
    order = np.random.default_rng(1).permutation(24)
    labels = np.empty(24, int)
    labels[order] = np.repeat(np.arange(6), 4)
    (f,), _ = f_classif(values[:, None], labels)
    assert grouping.intraclass(values, order, 6) == pytest.approx((f - 1) / (f - 1 + 4))
    assert abs(f - 1) > 0.3  # not near 0, where many mistakes would pass


def test_the_intraclass_correlation_has_the_ends_that_it_names():
    order = np.arange(12)
    assert grouping.intraclass(np.repeat([1.0, 5.0, 2.0], 4), order, 3) == pytest.approx(1)
    assert grouping.intraclass(np.tile([1.0, 5.0, 2.0, 0.0], 3), order, 3) == pytest.approx(-1 / 3)


def test_random_groups_are_alike_by_chance_only():
    values = np.random.default_rng(0).normal(size=32)
    found = grouping.by_chance(values, 8, np.random.default_rng(1))
    assert abs(found.mean()) < 0.03
    assert found.std() > 0.1


def test_similar_channels_are_in_a_group_and_mixed_ones_are_not():
    statistics = np.random.default_rng(0).normal(size=(2, 32))
    for quantity in statistics:
        chance = grouping.by_chance(quantity, 8, np.random.default_rng(1))
        assert grouping.intraclass(quantity, grouping.similar(statistics, 8), 8) > np.quantile(chance, 0.999)
        assert grouping.intraclass(quantity, grouping.mixed(statistics, 8), 8) < np.quantile(chance, 0.05)
    for order in (grouping.similar(statistics, 8), grouping.mixed(statistics, 8)):
        assert sorted(order) == list(range(32))


def test_the_statistics_are_those_of_the_convolutions_by_channel():
    model = grouping.network((8, 8, 1), 10, channels=8, groups=4)
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(5, 8, 8, 1)).astype("float32")
    first = model.layers[1](x).numpy().reshape(-1, 8)
    measured = grouping.channel_statistics(model, x)
    np.testing.assert_allclose(measured[0], [first.mean(0), first.std(0)], rtol=1e-4, atol=1e-4)
    assert [part.shape for part in measured] == [(2, 8)] * 3


def test_shuffled_channels_before_the_training_are_the_same_network_under_other_names():
    plain, permuted = (grouping.network((8, 8, 1), 10, channels=8, groups=4) for _ in range(2))
    order = np.random.default_rng(0).permutation(8)
    place = np.argsort(order)
    for layer in grouping.regrouped_layers(permuted):
        layer.order.assign(order)
    kernels = [weight for weight in plain.weights if weight.path.endswith("kernel")]
    others = [weight for weight in permuted.weights if weight.path.endswith("kernel")]
    others[0].assign(kernels[0].numpy()[..., place])
    for kernel, other in zip(kernels[1:3], others[1:3], strict=True):
        other.assign(kernel.numpy()[:, :, place][..., place])
    others[3].assign(kernels[3].numpy()[place])
    x = np.random.default_rng(1).normal(size=(5, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(permuted(x), plain(x), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def stored():
    return tables.read(STORED / "groups_digits.csv")


def test_results_which_channels_share_a_group_makes_no_difference_to_the_error(stored):
    errors = stored[stored["layer"] == 1].groupby("grouping")["error"]
    assert errors.count().to_list() == [5] * len(groups.GROUPINGS)
    assert errors.mean().max() - errors.mean().min() < 2 * errors.std().max()


def test_results_the_trained_network_fails_in_other_groups(stored):
    assert (stored["error_elsewhere"] > 2 * stored["error"]).all()
    by_index = stored[(stored["grouping"] == "by_index") & (stored["layer"] == 1)]
    assert 10 < by_index["error_elsewhere"].mean() < 20


@pytest.mark.parametrize("layer", [2, 3])
def test_results_training_makes_the_means_of_a_group_alike(stored, layer):
    part = stored[(stored["grouping"] == "by_index") & (stored["layer"] == layer)]
    assert (part["mean_trained"] > part["mean_chance"] + part["mean_chance_sd"]).all()
    # The standard deviation of a mean of five random groupings.
    chance = part["mean_chance_sd"].mean() / 5**0.5
    assert part["mean_trained"].mean() > 4 * chance
    assert abs(part["mean_start"].mean()) < 2 * chance


def test_results_the_first_layer_stays_as_it_was(stored):
    part = stored[(stored["grouping"] == "by_index") & (stored["layer"] == 1)]
    assert abs(part["mean_trained"].mean() - part["mean_start"].mean()) < 0.05
    assert abs(part["mean_trained"].mean()) < 2 * part["mean_chance_sd"].mean() / 5**0.5


def test_results_training_makes_no_deviations_of_a_group_alike(stored):
    part = (
        stored[stored["grouping"] == "by_index"].groupby("layer")[["deviation_trained", "deviation_chance_sd"]].mean()
    )
    assert (part["deviation_trained"].abs() < 2 * part["deviation_chance_sd"] / 5**0.5).all()


def test_results_in_the_last_layer_the_spread_within_groups_falls_more_than_that_between(stored):
    part = stored[(stored["grouping"] == "by_index") & (stored["layer"] == 3)].mean(numeric_only=True)
    assert part["mean_within_trained"] < 0.4 * part["mean_within_start"]
    assert part["mean_between_trained"] > 0.6 * part["mean_between_start"]


def test_results_mixed_groups_become_alike_in_their_means_and_similar_ones_do_not_keep_their_deviations(stored):
    last = stored[stored["layer"] == 3].groupby("grouping").mean(numeric_only=True)
    assert last.loc["mixed", "mean_early"] < -0.1
    assert last.loc["mixed", "mean_trained"] > 0.4
    assert last.loc["similar", "deviation_early"] > 0.4
    assert abs(last.loc["similar", "deviation_trained"]) < 0.15


def test_notebook_the_ends_are_layer_and_instance_normalization():
    table = tables_of("03_groups")[0]
    assert len(table) == 4
    assert max(map(float, table.values())) < 1e-5


def test_notebook_the_number_of_groups_matters_little_and_a_single_channel_costs_most():
    table = tables_of("03_groups")[1]
    errors = {groups: table.measured(str(groups), "test error (%)") for groups in (1, 2, 4, 8, 16, 32, 64)}
    between = [errors[groups] for groups in (2, 4, 8, 16, 32)]
    assert max(e.mean for e in between) - min(e.mean for e in between) < max(e.spread for e in between)
    assert errors[64].mean > 2 * max(errors[groups].mean for groups in (1, 2, 4, 8, 16, 32))
    assert 0 < errors[1].mean - max(e.mean for e in between) < 2 * 100 / 360
    assert table.measured("64", "training loss").mean > 10 * table.measured("1", "training loss").mean


def test_notebook_training_makes_the_means_of_a_group_alike_and_nothing_else():
    table = tables_of("03_groups")[2]
    found = {row: float(table[row, "groups, trained"]) for row, column in table if column == "groups, trained"}
    assert found["means, layer 3"] > 0.5
    assert found["means, layer 2"] > 0.3
    assert max(abs(found[row]) for row in found if "deviations" in row or "layer 1" in row) < 0.2
    assert max(abs(float(cell)) for (_, column), cell in table.items() if "random" in column) < 0.05


def test_notebook_the_trained_network_fails_in_other_groups():
    table = tables_of("03_groups")[3]
    column = "test error (%)"
    assert table.measured("other groups", column).mean > 3 * float(table["the groups of the training", column])
