"""Detection at two images a step, on a backbone that learned to classify with Batch Normalization.

    python tutorials/experiments/detection.py                          # the digits, on two CPU cores
    python tutorials/experiments/detection.py --dataset fashion_mnist

A detector of one stage finds the items of a scene: each location of its map predicts a class and a box. Backbone and
methods are those of segmentation.py (Wu & He, Group Normalization, ECCV 2018, https://arxiv.org/abs/1803.08494,
section 4.2). Writes each run to a CSV file; prints the table and draws the figure.
"""

import os
from collections.abc import Sequence
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pandas as pd

import transfer
from command_line import record
from keras_norm.tutorials import dense, scenes, tables

CORNER = "average precision (%) by images on each device"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = transfer.argument_parser(__doc__)
    args = flags.parse_args(arguments)
    transfer.prepare(args)
    try:
        data = scenes.load(args.dataset, args.train_scenes, args.test_scenes, 2, args.light, args.data_dir)
    except ValueError as error:
        flags.error(str(error))
    task = transfer.Task(dense.detector, dense.encode, dense.detection_loss, partial(score, data=data))
    runs = record(transfer.experiment(task, data, args), args.output / "detection.csv")
    transfer.draw(runs, "average precision at IoU 0.5 on test scenes (%)", args.output / "detection.png")
    tables.show(results(runs))


def score(model: keras.Model, data: scenes.Scenes) -> float:
    """The mean average precision in percent, see `dense.mean_average_precision`."""
    detections = dense.decode(model.predict(data.test(dense.encode), verbose=0))
    return round(dense.mean_average_precision(detections, list(data.test_split.as_numpy_iterator())), 2)


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of the experiment: mean and standard deviation over the seeds."""
    return transfer.results(runs, CORNER)


if __name__ == "__main__":
    main()
