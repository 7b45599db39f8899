"""The digits that need no network, and how any TFDS set is fed."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from keras_norm.digits import Digits
from keras_norm.tutorials import data
from support.backends import tensorflow_only

pytestmark = tensorflow_only


class Unlabeled(tfds.core.GeneratorBasedBuilder):
    """Images without classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(8, 8, 1))}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        raise AssertionError("refused before it is prepared")

    _generate_examples = _split_generators


def by_pixels(images, labels):
    """Images and labels in an order that depends on nothing else."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize(("split", "size"), [("train", 1437), ("test", 360)])
def test_the_digits_are_those_of_scikit_learn(data_dir, split, size):
    loaded = tfds.as_numpy(tfds.load("digits", split=split, data_dir=data_dir, batch_size=-1))
    is_test = np.arange(1797) % 5 == 0
    chosen = is_test if split == "test" else ~is_test
    digits = load_digits()
    expected = by_pixels(digits.images[chosen, :, :, None].astype("uint8"), digits.target[chosen])
    assert by_pixels(loaded["image"], loaded["label"]) == expected
    assert len(expected) == size


def test_a_set_that_another_process_prepared_meanwhile_is_read(tmp_path, monkeypatch):
    generate = Digits._generate_examples

    def meanwhile(self, indices):
        monkeypatch.setattr(Digits, "_generate_examples", generate)
        Digits(data_dir=tmp_path).download_and_prepare()
        return generate(self, indices)

    monkeypatch.setattr(Digits, "_generate_examples", meanwhile)
    assert data.load("digits", data_dir=tmp_path).train_size == 1437


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        data.load("digits", data_dir=tmp_path / "file")


def test_pixels_have_mean_0_and_deviation_1_over_the_training_images(data_dir):
    images = np.concatenate([x for x, _ in data.load("digits", data_dir=data_dir).train(479, seed=0)])
    assert images.shape == (1437, 8, 8, 1)
    np.testing.assert_allclose([images.mean(), images.std()], [0, 1], atol=1e-5)


def test_batches_are_full_and_come_in_another_order_each_epoch(data_dir):
    train = data.load("digits", train_images=50, data_dir=data_dir).train(16, seed=0)
    epochs = [[labels.numpy().tolist() for _, labels in train] for _ in range(2)]
    assert [len(labels) for labels in epochs[0]] == [16, 16, 16]
    assert epochs[0] != epochs[1]


def test_images_are_shifted_by_at_most_two_pixels_and_half_of_them_mirrored():
    images = np.random.default_rng(0).normal(size=(64, 6, 7, 2)).astype("float32")
    padded = np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)], "reflect")
    mirrored = 0
    for padding, changed in zip(padded, data.shifted_and_mirrored(images).numpy(), strict=True):
        windows = [padding[i : i + 6, j : j + 7] for i in range(5) for j in range(5)]
        assert any((changed == window).all() or (changed == window[:, ::-1]).all() for window in windows)
        mirrored += any((changed == window[:, ::-1]).all() for window in windows)
    assert 16 < mirrored < 48


@pytest.mark.slow
def test_a_pass_that_stops_early_takes_no_images_away(data_dir):
    for _ in range(10):  # without the care that `load` takes, about one in two loses images
        digits = data.load("digits", data_dir=data_dir)
        next(iter(digits.test(10)))
        assert sum(len(labels) for _, labels in digits.test()) == 360


def test_a_set_without_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must pair images of one size with class labels. Received: 'unlabeled'"):
        data.load("unlabeled", data_dir=tmp_path)


def test_an_unknown_set_is_answered_by_known_ones(data_dir):
    with pytest.raises(ValueError, match=r"Received: 'cifra10' \(close: cifar10.*; for example digits, mnist"):
        data.load("cifra10", data_dir=data_dir)


def test_a_batch_larger_than_the_training_images_is_refused(data_dir):
    with pytest.raises(ValueError, match="batch_size must be at most the number of training images"):
        data.load("digits", train_images=3, data_dir=data_dir).train(4, seed=0)
