"""The handwritten digits of scikit-learn as a TFDS set, offline: `import keras_norm.digits; tfds.load("digits")`.

Needs `pip install "keras_norm[tutorials]"`. No other module imports this one.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

TEST_EVERY = 5


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 images of 8x8x1 pixels from 0 to 16, in 10 classes: 1,437 to train on, 360 to test.

    Every fifth image is a test image, beginning with the first. Defining the class registers its name. Like every TFDS
    set, it is written once, to `TFDS_DATA_DIR` or `~/tensorflow_datasets`, and read from there.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8x8 pixels, the test part of the UCI set, as scikit-learn ships them.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        indices = np.arange(len(load_digits().target))
        is_test = indices % TEST_EVERY == 0
        return {
            "train": self._generate_examples(indices[~is_test]),
            "test": self._generate_examples(indices[is_test]),
        }

    def _generate_examples(self, indices: np.ndarray) -> Iterator[tuple[int, dict]]:
        digits = load_digits()
        for i in indices:
            yield int(i), {"image": digits.images[i].astype(np.uint8)[..., None], "label": int(digits.target[i])}
