"""Segmentation at two images a step, on a backbone that learned to classify with Batch Normalization.

    python tutorials/experiments/segmentation.py                          # the digits, on two CPU cores
    python tutorials/experiments/segmentation.py --dataset fashion_mnist

A U-Net labels each pixel of a scene. Its backbone was trained as a classifier at batch 32, the way detectors and
segmenters begin (Wu & He, Group Normalization, ECCV 2018, https://arxiv.org/abs/1803.08494, section 4.2). The methods
differ in what becomes of its normalizations, and in what normalizes the decoder. Writes each run to a CSV file; prints
the table and draws the figure.
"""

import os
from collections.abc import Sequence
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd

import transfer
from command_line import record
from keras_norm.tutorials import dense, scenes, tables

CORNER = "mean IoU (%) by images on each device"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = transfer.argument_parser(__doc__)
    args = flags.parse_args(arguments)
    transfer.prepare(args)
    try:
        data = scenes.load(args.dataset, args.train_scenes, args.test_scenes, 2, args.light, args.data_dir)
    except ValueError as error:
        flags.error(str(error))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task = transfer.Task(dense.segmenter, scenes.mask, loss, partial(score, data=data))
    runs = record(transfer.experiment(task, data, args), args.output / "segmentation.csv")
    transfer.draw(runs, "mean IoU on test scenes (%)", args.output / "segmentation.png")
    tables.show(results(runs))


def score(model: keras.Model, data: scenes.Scenes) -> float:
    """The mean intersection over union of background and classes, in percent."""
    batches = data.test(scenes.mask)
    metric = keras.metrics.MeanIoU(1 + data.classes, sparse_y_pred=False)
    metric.update_state(np.concatenate([y for _, y in batches.as_numpy_iterator()]), model.predict(batches, verbose=0))
    return round(100 * float(metric.result()), 2)


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of the experiment: mean and standard deviation over the seeds."""
    return transfer.results(runs, CORNER)


if __name__ == "__main__":
    main()
