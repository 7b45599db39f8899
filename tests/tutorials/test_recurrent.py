"""Recurrent networks: the sequences, the networks, the experiment on a tiny budget, and what the pages say of it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

import recurrent
from keras_norm.tutorials import data, sequences, tables
from support.backends import tensorflow_only
from support.notebooks import tables_of

pytestmark = tensorflow_only

DOCS = Path(__file__).parents[2] / "docs"
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)


def sorted_rows(x, y):
    return sorted((*row, label) for row, label in zip(x.tolist(), y.tolist(), strict=True))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def standardized(x, epsilon=1e-3):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def test_the_pixels_of_a_digit_come_row_by_row(data_dir):
    found = sequences.pixels("digits", data_dir=str(data_dir))
    digits = load_digits()
    images, is_test = digits.images.reshape(-1, 64).astype(int), np.arange(1797) % 5 == 0
    assert sorted_rows(*found.test) == sorted_rows(images[is_test], digits.target[is_test])
    assert sorted_rows(*found.train) == sorted_rows(images[~is_test], digits.target[~is_test])
    assert (found.tokens, found.classes, found.every_step) == (17, 10, False)


def test_images_with_colors_are_no_sequence_of_gray_levels(monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_: SimpleNamespace(image_shape=(8, 8, 3)))
    with pytest.raises(ValueError, match=r"the images must be gray. Received: 'cifar10' of shape \(8, 8, 3\)"):
        sequences.pixels("cifar10")


def test_the_target_of_a_character_is_the_next_one():
    text = "".join(chr(97 + i % 26) for i in range(1000))
    found = sequences.characters(text, length=9)
    assert found.every_step
    assert sequences.decoded(found.train[0][0]) == "abcdefghi"
    assert sequences.decoded(found.train[1][0]) == "bcdefghij"
    pieces = [sequences.decoded(np.append(x, y[-1:])) for x, y in zip(*found.train, strict=True)]
    assert "".join(pieces) == text[:900]
    assert sequences.decoded(found.test[0][0]) == text[900:909]
    assert len(found.test[0]) == 10


def test_a_character_outside_the_alphabet_is_a_question_mark():
    assert sequences.decoded(sequences.encoded("“a”\u2013ß\n~")) == '"a"-?\n~'


def test_the_language_reference_says_nothing_twice():
    text = sequences.language_reference()
    paragraphs = text.split("\n\n")
    assert len(paragraphs) == len(set(paragraphs))
    assert 250_000 < len(text) < 700_000
    assert np.mean(sequences.encoded(text) == sequences.ALPHABET.index("?")) < 0.001


def test_the_frequencies_of_the_characters_take_the_bits_that_count_as_nothing_learned():
    text = sequences.characters(sequences.language_reference())
    counts = np.bincount(text.train[1].ravel(), minlength=text.classes) + 1
    bits = -np.log2(counts / counts.sum())[text.test[1]].mean()
    assert bits == pytest.approx(4.7, abs=0.1)
    assert 0.8 * bits < recurrent.TASKS["text"].failure < bits


def test_a_pass_shows_each_training_sequence_once_in_a_new_order():
    x = np.arange(12, dtype=np.int32)[:, None]
    batches = iter(sequences.Sequences(12, 12, (x, x[:, 0]), (x, x[:, 0])).train_batches(4, seed=0))
    passes = [np.concatenate([next(batches)[1].numpy() for _ in range(3)]) for _ in range(2)]
    assert [sorted(each) for each in passes] == [list(range(12))] * 2
    assert list(passes[0]) != list(passes[1])


@pytest.mark.parametrize("method", sequences.METHODS)
def test_the_networks_differ_by_gamma_and_beta_alone(method):
    u, tokens, classes = 5, 7, 3
    x = np.zeros((4, 6), np.int32)
    model = sequences.network(sequences.Sequences(tokens, classes, (x, x[:, 0]), (x, x[:, 0])), method, u)
    plain = 16 * tokens + 4 * u * (16 + u + 1) + (u + 1) * classes
    # LN: two pairs for the products, one for the state. BN: gamma, beta and two averages, for the inputs and outputs.
    extra = {"lstm": 0, "batch_norm_lstm": 4 * (16 + u)}.get(method, 2 * (4 * u + 4 * u + u))
    assert model.count_params() == plain + extra
    assert model(x).shape == (4, classes)


@pytest.mark.parametrize("method", sequences.METHODS)
def test_a_text_has_an_answer_at_each_step(method):
    x = np.zeros((4, 6), np.int32)
    model = sequences.network(sequences.Sequences(7, 7, (x, x), (x, x)), method, 5)
    assert model(x).shape == (4, 6, 7)


def test_the_cell_of_the_paper_keeps_its_state_as_a_sum():
    random = np.random.default_rng(0)
    x, h, c = (random.normal(2.0, 3.0, (3, size)) for size in (2, 5, 5))
    cell = sequences.SumStateLSTMCell(5, bias_initializer="normal", beta_initializer="normal", dtype="float64")
    cell(x, [h, c])
    kernel, recurrent_kernel, bias, _, kernel_beta, _, recurrent_beta, _, state_beta = map(np.array, cell.weights)
    z = standardized(x @ kernel) + kernel_beta + standardized(h @ recurrent_kernel) + recurrent_beta + bias
    i, f, g, o = np.split(z, 4, axis=-1)
    new_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    new_h = sigmoid(o) * np.tanh(standardized(new_c) + state_beta)
    output, states = cell(x, [h, c])
    np.testing.assert_allclose(output, new_h, rtol=1e-6)
    np.testing.assert_allclose(states[1], new_c, rtol=1e-6)


def rows_of(method, rate, seed, values, task="pixels"):
    of_run = {"task": task, "method": method, "learning_rate": rate, "seed": seed}
    return [of_run | {"step": 22 * point, "value": value} for point, value in enumerate(values, 1)]


def test_the_tables_show_the_end_the_time_to_the_goal_and_the_failures():
    runs = rows_of("lstm", 0.1, 0, [50.0, 40.0, 41.0]) + rows_of("lstm", 0.1, 1, [90.0, 80.0, 39.0])
    runs += rows_of("lstm", 0.1, 2, [90.0, 90.0, 79.0])
    runs += rows_of("layer_norm_lstm", 0.1, 0, [30.0, 80.0, 80.0]) + rows_of("layer_norm_lstm", 0.1, 1, [90.0] * 3)
    runs += rows_of("layer_norm_lstm", 0.1, 2, [90.0, 90.0, float("nan")])
    found = recurrent.results(pd.DataFrame(runs))
    assert list(found) == ["pixels: test error (%)", "pixels: steps to 40", "pixels: failed runs"]
    first, second, third = (table[0.1].to_dict() for table in found.values())
    assert first["LSTM"] == "53.0 ± 22.5"
    assert second == {"LSTM": "66 (2 of 3)", "LN-LSTM": "never (1 of 3)"}
    assert third == {"LSTM": "0 of 3", "LN-LSTM": "3 of 3"}


@pytest.mark.slow
def test_a_learning_curve_is_that_of_a_plain_training():
    task = recurrent.TASKS["text"]._replace(units=3, batch_size=2, every=2)
    found = sequences.characters("The quick brown fox jumps over the lazy dog. " * 30, length=8)
    curve = recurrent.learning_curve(task, found, "batch_norm_lstm", 0.1, 0, 2, keras.callbacks.Callback())
    keras.utils.set_random_seed(0)
    model = sequences.network(found, "batch_norm_lstm", 3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=["accuracy"])
    options = {"validation_data": found.test_batches(), "shuffle": False, "verbose": 0}
    history = model.fit(found.train_batches(2, 0), epochs=2, steps_per_epoch=2, **options).history
    assert curve == pytest.approx(np.array(history["val_loss"]) / np.log(2), rel=1e-4)


@pytest.mark.slow
def test_the_experiment_writes_every_run_and_the_figure(data_dir, tmp_path):
    budget = ["--points", "1", "--seeds", "1", "--train-images", "64", "--learning-rates", "0.01"]
    done = subprocess.run(
        [sys.executable, recurrent.__file__, *budget, "--methods", "lstm", "layer_norm_lstm", "--output", tmp_path],
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for task, step in (("pixels", 22), ("text", 32)):
        rows = pd.read_csv(tmp_path / f"recurrent_{task}.csv")
        found = list(rows[["task", "method", "learning_rate", "seed", "step"]].itertuples(index=False, name=None))
        assert found == [(task, name, 0.01, 0, step) for name in ("lstm", "layer_norm_lstm")]
        assert f"| {task}: {recurrent.TASKS[task].measure} | 0.01 |" in done.stdout
    assert (tmp_path / "recurrent.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--methods gru", "layer_norm_lstm"),
        ("--points 0", "must be a positive integer. Received: '0'"),
        ("--dataset digitz", "Received: 'digitz' (close: digits"),
    ],
)
def test_a_wrong_value_is_answered_by_the_right_ones(data_dir, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        recurrent.main([*flags.split(), "--data-dir", str(data_dir)])
    assert message in capsys.readouterr().err.splitlines()[-1]


def stored(task):
    return tables.read(DOCS / f"results/recurrent_{task}.csv")


def ends(task, method, rate):
    """The last value of each run."""
    runs = stored(task)
    chosen = runs[(runs["method"] == method) & (runs["learning_rate"] == rate) & (runs["step"] == runs["step"].max())]
    assert len(chosen) == 5
    return chosen["value"]


def best(task, method):
    """The last values at the learning rate with the lowest mean of them."""
    return min((ends(task, method, rate) for rate in RATES), key=lambda values: values.mean())


def first_steps(task, method, rate, goal):
    """The step at which each run is at the goal for the first time."""
    runs = stored(task)
    chosen = runs[(runs["method"] == method) & (runs["learning_rate"] == rate) & (runs["value"] <= goal)]
    return chosen.groupby("seed")["step"].min()


def test_on_pixels_layer_normalization_learns_more_slowly_and_ends_higher():
    plain, normalized = best("pixels", "lstm"), best("pixels", "layer_norm_lstm")
    assert normalized.mean() > 1.8 * plain.mean()
    assert normalized.min() > plain.max()
    for rate in (0.003, 0.01, 0.03):
        slow, fast = (first_steps("pixels", name, rate, 40.0).median() for name in ("layer_norm_lstm", "lstm"))
        assert slow >= 1.8 * fast


def test_on_pixels_batch_normalization_is_within_the_spread_of_the_lstm():
    plain, normalized = best("pixels", "lstm"), best("pixels", "batch_norm_lstm")
    assert abs(plain.mean() - normalized.mean()) < normalized.std()


def test_on_pixels_layer_normalization_alone_is_above_chance_at_the_highest_rate_and_useless_there():
    assert (ends("pixels", "layer_norm_lstm", 0.3) < 80).all()
    assert (ends("pixels", "lstm", 0.3) >= 80).all() and (ends("pixels", "batch_norm_lstm", 0.3) >= 80).all()
    useful = max(ends("pixels", method, 0.01).mean() for method in list(sequences.METHODS)[:3])
    assert min(ends("pixels", "layer_norm_lstm", rate).mean() for rate in (0.1, 0.3)) > 2 * useful


def ends_of_range(cell):
    return [float(end) for end in cell.split(" to ")]


def test_the_notebook_shows_the_same_statistics_at_each_step_of_the_normalized_cell_alone():
    statistics = tables_of("11_recurrent")[0]
    steps = [f"step {t}" for t in (1, 4, 16, 64)]
    for step in steps:
        low, high = ends_of_range(statistics["c, LSTM", step])
        assert high > 10 * low
        for row in ("h U, LN-LSTM", "c, LN-LSTM"):
            low, high = ends_of_range(statistics[row, step])
            assert 0.95 < low <= high <= 1.0


def test_the_notebook_shows_that_the_scale_of_a_single_number_is_lost():
    levels = tables_of("11_recurrent")[1]
    assert float(levels["gray 16", "x W"]) > 15 * float(levels["gray 1", "x W"])
    assert float(levels["gray 16", "LN(x W)"]) < 1.05 * float(levels["gray 1", "LN(x W)"])


def test_the_notebook_shows_layer_normalization_slower_on_pixels():
    table = tables_of("11_recurrent")[2]
    plain, around, normalized = (table.measured(row, "0.01") for row in ("LSTM", "BN around the LSTM", "LN-LSTM"))
    assert normalized.mean - normalized.spread > 1.5 * (plain.mean + plain.spread)
    assert abs(plain.mean - around.mean) < plain.spread + around.spread
    assert min(table.measured(row, "0.10").mean for row in ("LSTM", "BN around the LSTM", "LN-LSTM")) > 50


def test_the_notebook_shows_both_normalizations_ahead_on_the_text_at_a_high_rate():
    table = tables_of("11_recurrent")[3]
    for step in ("32", "128", "224", "320"):
        plain, normalized, around = (
            table.measured(row, step).mean for row in ("LSTM", "LN-LSTM", "BN around the LSTM")
        )
        assert max(normalized, around) < plain
    assert abs(normalized - around) < 0.1 < 0.5 < plain - normalized


def test_on_text_layer_normalization_learns_faster_and_ends_lower_at_every_rate():
    for rate in (0.01, 0.03, 0.1):
        plain, normalized = (ends("text", method, rate) for method in ("lstm", "layer_norm_lstm"))
        assert normalized.max() < plain.min()
        slow, fast = (first_steps("text", method, rate, 3.0) for method in ("lstm", "layer_norm_lstm"))
        assert len(fast) == 5
        assert fast.median() < slow.median()
    gaps = {
        rate: ends("text", "lstm", rate).mean() - ends("text", "layer_norm_lstm", rate).mean() for rate in (0.03, 0.1)
    }
    assert gaps[0.1] > 2 * gaps[0.03]
    assert len(first_steps("text", "lstm", 0.1, 3.0)) == 1
    assert (stored("text").query("step == 320")["value"] < 4).all()


def test_on_text_batch_normalization_ends_lowest_at_the_moderate_rates():
    for rate in (0.01, 0.03):
        normalized, around = (ends("text", method, rate) for method in ("layer_norm_lstm", "batch_norm_lstm"))
        assert around.max() < normalized.min()
