"""What the experiments share on the command line: flags, progress, and the end of a run."""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import pandas as pd
import tensorflow as tf

from keras_norm.tutorials import tables
from keras_norm.tutorials.data import SUGGESTED

tf.get_logger().setLevel("ERROR")  # each run traces a new network, which is no mistake here


def parser(description: str, dataset: str = "digits") -> argparse.ArgumentParser:
    """A parser of the flags that all experiments have: data, seeds, output."""
    made = argparse.ArgumentParser(description=description, formatter_class=Help)
    add = made.add_argument
    add("--dataset", default=dataset, help=f"image classification set of TFDS: {', '.join(SUGGESTED)}, ...")
    add("--train-images", type=positive, metavar="N", help="use the first N training images only; all if not given")
    add("--data-dir", help="where TFDS keeps its sets; TFDS_DATA_DIR or ~/tensorflow_datasets if not given")
    add("--seeds", type=positive, default=2, metavar="N", help="runs of each kind")
    add("--output", type=Path, default=Path("results"), help="folder for the CSV file and the figures")
    return made


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the description, and shows the defaults."""


def positive(text: str) -> int:
    """`text` as a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer. Received: {text!r}")
    return int(text)


def record(rows: Iterable[dict[str, Any]], path: Path) -> pd.DataFrame:
    """Writes each row to the CSV file `path` as it comes, says how many runs took how long, and returns all rows."""
    start = time.monotonic()
    count = sum(1 for _ in tables.recorded(rows, path))
    print(f"\n{count} rows in {time.monotonic() - start:.0f} s, written to {path}\n", flush=True)
    return tables.read(path)


class Progress(keras.callbacks.Callback):
    """One line for each run: on a terminal rewritten at each epoch, at the end the result."""

    def __init__(self, title: str, epochs: int) -> None:
        super().__init__()
        self.title, self.epochs, self.start = title, epochs, time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if sys.stdout.isatty():
            print(f"{self.title}: epoch {epoch + 1:>2} of {self.epochs}, loss {logs['loss']:.3f}", end="\r", flush=True)

    def finish(self, result: str) -> None:
        """Leaves the line with the result on it."""
        print(f"{self.title}: {result} ({time.monotonic() - self.start:.0f} s)".ljust(70), flush=True)
