"""Finds problems with the normalizations of a model."""

from typing import Any

import keras

from keras_norm import arguments
from keras_norm.models.conversion import check_model
from keras_norm.models.examination.findings import GAP, Examined
from keras_norm.models.examination.measurement import OWNER, Instrument, batches_of
from keras_norm.models.examination.places import find_places
from keras_norm.models.examination.report import Report


def examine(
    model: keras.Model,
    data: Any = None,
    labels: Any = None,
    *,
    steps: int = 4,
    batch_size: int = 32,
    verbose: Any = "auto",
) -> Report:
    """Examines the normalizations of a model: their sets, their statistics and their problems.

    Without data, it inspects the model only. With data, it also calls the model twice on a few batches: in inference
    mode, and with every batch normalization in training mode. If the outputs differ by more than their standard
    deviation, it calls the model on the first batch once more per batch normalization, with only that one in training
    mode, to find which of them causes the difference. Dropout and all other layers always run in inference mode.

    The model does not change, bit for bit: weights, moving statistics, seeds and compiled functions stay as they are.

    Pass batches of the size that training uses, because the size matters. Under a `tf.distribute` strategy, pass the
    global batch, which is split over the replicas. All ranks of `torch.distributed` must call this function, each with
    its own data and the same number of batches. Layers inside an RNN or a `TimeDistributed` run in a loop; they are
    listed, but not measured.

    Args:
        model: a built model: Sequential, Functional or subclassed.
        data: inputs as for `model.fit`: arrays, a `tf.data.Dataset`, a `PyDataset` or a torch `DataLoader`; None to
            inspect the model only. If the data set has labels and the model is compiled, the loss is reported.
        labels: the labels, if `data` are arrays.
        steps: the number of batches to measure.
        batch_size: the batch size, if `data` are arrays.
        verbose: 0 hides the progress bar.

    Returns:
        A report to print, to read by `report.findings`, `report.lines` and `report.to_dict()`, or to draw by
        `report.plot("report.png")`.

    Raises:
        TypeError: if the model is not a Keras model.
        ValueError: if the model is not built, `steps` or `batch_size` is not positive, or `data` is empty.

    Example:
        >>> norm = keras.layers.BatchNormalization(name="norm")
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), norm])
        >>> report = examine(model)
        >>> [(finding.name, finding.layer) for finding in report.findings]
        [('redundant_bias', 'norm')]

    Reference: Wu & Johnson, Rethinking "Batch" in BatchNorm, 2021, https://arxiv.org/abs/2105.07576.
    """
    check_model(OWNER, model)
    steps = arguments.positive_integer(OWNER, "steps", steps)
    batch_size = arguments.positive_integer(OWNER, "batch_size", batch_size)
    places = find_places(model)
    measurement = None
    if data is not None:
        batches = list(batches_of(data, labels, steps, batch_size))
        if not batches:
            raise ValueError(f"{OWNER}: data must have a batch. Received: data={data!r}, which is empty.")
        measurement = Instrument(model, places).measure(batches, GAP, verbose)
    return Report(Examined(model, places, measurement))
