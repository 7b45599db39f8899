"""Finds what is wrong with the normalizations of a model."""

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
    """Examines the normalizations of a model: their sets, their statistics, and what is wrong with them.

    Without data it reads the model. With data it also calls the model on a few batches, twice each: in inference mode,
    and with every batch normalization in training mode. Where the outputs differ by more than their standard deviation,
    it calls the model on the first batch once more for each batch normalization, with that one in training mode: to see
    which of them makes the difference. Dropout and all other layers run in inference mode throughout.

    The model does not change, bit for bit: weights, moving statistics, seeds and compiled functions stay as they are.

    Give the batches that training uses, since their size is part of what is examined: under a `tf.distribute` strategy
    the global batch, of which each replica takes its share. The ranks of `torch.distributed` must all call this
    function, each with its own data and as many batches. Layers inside an RNN or a `TimeDistributed` are called in a
    loop; they are listed, and not measured.

    Args:
        model: a built model: Sequential, Functional or subclassed.
        data: inputs as for `model.fit`: arrays, a `tf.data.Dataset`, a `PyDataset`, a `DataLoader` of torch; None to
            read the model alone. A data set may have labels, which then give the loss, if the model is compiled.
        labels: for arrays, the labels.
        steps: the number of batches to measure.
        batch_size: of arrays.
        verbose: 0 hides the progress bar.

    Returns:
        A report: print it, read `report.findings`, `report.lines` and `report.to_dict()`, or draw it by
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
