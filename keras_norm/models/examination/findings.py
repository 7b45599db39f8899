"""The rules of the check-up. Each rule is a function that yields findings from the model and the measurements."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers as kl
from keras.layers import Layer

from keras_norm import arguments, kernels, layers
from keras_norm._keras import uses_weight_decay
from keras_norm.kernel_layouts import output_axes
from keras_norm.models.examination import cures
from keras_norm.models.examination.measurement import Measured, Measurement
from keras_norm.models.examination.places import Place, positions_in, sets_of
from keras_norm.models.graph import is_leaf
from keras_norm.models.linear import has_linear_output, is_linear
from keras_norm.models.predicates import is_batch_normalization, is_frozen, is_normalization
from keras_norm.tensors import dtype_name
from keras_norm.walk import all_layers

FEW_SAMPLES = 4
"""A batch of up to this many samples is small. In figure 1 of the paper, the error grows from this size on."""
FEW_POSITIONS = 16
"""A batch with fewer positions per channel is small. The standard deviation of 16 normal numbers is off by 18 %."""
FEW_IN_A_SAMPLE = 4
"""A set within a sample with fewer positions is small. Two numbers, for example, always become -1 and 1."""
STALE_DISTANCE, STALE_FACTOR = 0.5, 2.0
"""Moving statistics are stale if, in the median channel, the means are more than 0.5 + 2 / sqrt(n) standard deviations
apart, or the variances by a factor of more than 2 + 4 / sqrt(n). A small number n of samples makes both uncertain."""
DOMINATED = 0.25
"""With a variance below this fraction of epsilon, outputs have a standard deviation below 0.45 instead of 1."""
GAP = 1.0
"""A larger gap between training and inference is a finding, in standard deviations of the model's output."""
FLOAT16_LIMIT = 65504.0
WITHOUT_MASK = (kl.GroupNormalization, kl.LayerNormalization, kl.RMSNormalization)
SEQUENCE_LAYERS = (kl.RNN, kl.Embedding, kl.MultiHeadAttention, kl.Attention, kl.AdditiveAttention)


class Finding(NamedTuple):
    """A problem of a normalization, or an unnecessary cost."""

    name: str
    """The rule that found it, which is a heading of the page "Troubleshooting normalization"."""
    layer: str
    """The path of the layer in the model."""
    severity: str
    """"severe", "warning" or "note"."""
    message: str
    numbers: dict[str, Any]
    cure: str
    """A line of Python that uses the names `keras`, `keras_norm`, `model` and `data`."""


@dataclass
class Examined:
    """The input of the rules: a model and its measurements."""

    model: keras.Model
    places: list[Place]
    measurement: Measurement | None

    @property
    def replicas(self) -> int:
        """The number of replicas that share each batch of `fit`; 1 on JAX, where a batch is one array."""
        if keras.backend.backend() == "tensorflow":
            return int(self.model.distribute_strategy.num_replicas_in_sync)
        return 1 if keras.backend.backend() == "jax" else kernels.number_of_replicas()

    def measured(self) -> Iterator[tuple[Place, Measured]]:
        """All measured calls of normalizations."""
        for place, _, found in self.measurement.calls if self.measurement else ():
            yield place, found


Rule = Callable[[Examined], Iterator[Finding]]


def find(examined: Examined) -> list[Finding]:
    """The findings of all rules, the most severe first, at most one per rule and layer."""
    found: dict[tuple[str, str], Finding] = {}
    for rule in RULES:
        for finding in rule(examined):
            found.setdefault((finding.name, finding.layer), finding)
    return sorted(found.values(), key=lambda finding: ("severe", "warning", "note").index(finding.severity))


def one_position_sets(examined: Examined) -> Iterator[Finding]:
    """Sets of a single position, which equals the mean."""
    for place, positions in _smallest_sets(examined):
        if positions == 1:
            yield Finding(
                "one_position_sets",
                place.path,
                "severe",
                "Each set has a single position, which equals its mean: the output is beta, whatever the input.",
                {"positions": 1},
                cures.larger_sets(examined.model, place),
            )


def small_sets(examined: Examined) -> Iterator[Finding]:
    """Sets with so few positions that their statistics are noise."""
    for place, positions in _smallest_sets(examined):
        if 1 < positions < FEW_IN_A_SAMPLE and not place.uses_batch:
            yield Finding(
                "small_sets",
                place.path,
                "warning",
                f"A set has {positions} positions. Standardized, they keep little of the input.",
                {"positions": positions},
                cures.larger_sets(examined.model, place),
            )
    for place, samples, positions in _small_batches(examined):
        if positions > 1 and not _helped_by_other_replicas(examined, place):
            yield Finding(
                "small_sets",
                place.path,
                "warning",
                f"In training a channel's statistics come from {samples} samples ({positions} positions): they are "
                "noisy, and inference uses others.",
                {"samples": samples, "positions": positions},
                cures.larger_sets(examined.model, place),
            )


def unsynchronized_replicas(examined: Examined) -> Iterator[Finding]:
    """Small batches on each of several replicas that could be one larger batch."""
    for place, samples, positions in _small_batches(examined):
        if _helped_by_other_replicas(examined, place):
            yield Finding(
                "unsynchronized_replicas",
                place.path,
                "warning",
                f"Each of {examined.replicas} replicas takes its statistics from a batch of {samples} samples "
                f"({positions} positions per channel).",
                {"replicas": examined.replicas, "samples": samples, "positions": positions},
                "model = keras_norm.models.synchronize_batch_normalization(model)",
            )


def stale_moving_statistics(examined: Examined) -> Iterator[Finding]:
    """Moving statistics that differ from those of the data."""
    stale = [(place, found, _staleness(examined, found)) for place, found in examined.measured()]
    for place, found, far in sorted(stale, key=lambda each: max(each[2] or (0.0,)), reverse=True):
        if far is None:
            continue
        (distance, factor), (far_off, too_different) = far, _stale_limits(examined)
        severe = (distance > 4 * STALE_DISTANCE or factor > 4 * STALE_FACTOR) and not is_frozen(place.layer)
        texts = []
        if distance > far_off:
            texts.append(f"the mean is {distance:.2g} standard deviations away (limit {far_off:.2g})")
        if factor > too_different:
            texts.append(f"the variance is off by a factor of {factor:.2g} (limit {too_different:.2g})")
        recalibrated = "keras_norm.models.recalibrate_batch_normalization({}, data, verbose=0)"
        cure = f"model = {recalibrated.format('model')}"
        if is_frozen(place.layer):
            unfrozen = recalibrated.format("keras_norm.models.unfreeze_batch_normalization(model)")
            cure = f"model = keras_norm.models.freeze_batch_normalization({unfrozen})"
        yield Finding(
            "stale_moving_statistics",
            place.path,
            "severe" if severe else "warning",
            "Moving statistics, which inference uses, are not those of the data: in the median channel "
            f"{' and '.join(texts)}.",
            {
                "median_distance": distance,
                "worst_distance": float(np.max(np.asarray(found.distance))),
                "median_factor": factor,
                "worst_factor": float(np.exp(np.abs(np.log(np.asarray(found.ratio))).max())),
                "momentum": float(getattr(place.norm, "momentum", 0.0)),
            },
            cure,
        )


def training_inference_gap(examined: Examined) -> Iterator[Finding]:
    """Outputs that differ between training and inference."""
    found = examined.measurement
    if found is None or not found.gap > GAP:
        return
    parts = {place.path: m.output_gap for place, m in examined.measured() if m.output_gap is not None}
    worst = max(parts, key=lambda path: parts[path] or 0.0)
    # A shared layer is measured at each of its calls.
    guilty = {place.path: place for place, m in examined.measured() if (m.output_gap or 0.0) > 0.2 * found.gap}
    guilty |= {place.path: place for place in examined.places if place.path == worst}
    numbers: dict[str, Any] = {"gap": found.gap, "by_layer": parts}
    losses = ""
    if found.losses is not None:
        numbers |= {"loss_training": found.losses[0], "loss_inference": found.losses[1]}
        losses = (
            f" The loss is {found.losses[0]:.3g} with the statistics of the batch and {found.losses[1]:.3g} without."
        )
    cure = "model = keras_norm.models.recalibrate_batch_normalization(model, data, verbose=0)"
    if all(_staleness(examined, m) is None for _, m in examined.measured()):
        cure = cures.larger_sets(examined.model, *guilty.values())
    yield Finding(
        "training_inference_gap",
        worst,
        "severe" if found.gap > 2 * GAP else "warning",
        f"Between training and inference mode the model's output changes by {found.gap:.2g} of its standard deviation, "
        f"most of it because of this layer.{losses}",
        numbers,
        cure,
    )


def statistics_over_time(examined: Examined) -> Iterator[Finding]:
    """Sets within a sample that extend over all steps of a sequence."""
    is_sequence_model = any(isinstance(layer, SEQUENCE_LAYERS) for layer in all_layers(examined.model))
    for place in examined.places:
        for call in place.calls:
            if len(call.shape) != 3 or is_batch_normalization(place.norm):
                continue
            causal = getattr(call.source, "padding", None) == "causal"
            if not (is_sequence_model or causal or call.masked or call.shape[1] is None):
                continue
            if any({0, 1} & set(of.axes) == {1} for of in sets_of(place.norm, call)):
                yield Finding(
                    "statistics_over_time",
                    place.path,
                    "warning",
                    "Statistics run through all steps of a sequence: a step depends on later ones, and on how long the "
                    "sequence is.",
                    {"time_axis": 1, "steps": call.shape[1]},
                    cures.replaced(examined.model, "keras_norm.LayerNormalization()", place),
                )


def mask_ignored(examined: Examined) -> Iterator[Finding]:
    """Layers of Keras whose statistics include padding."""
    for place in examined.places:
        masked = [call for call in place.calls if call.masked]
        if not masked or not isinstance(place.norm, WITHOUT_MASK):
            continue
        last = len(masked[0].shape) - 1
        if any(set(of.axes) - {last} for of in sets_of(place.norm, masked[0])):
            yield Finding(
                "mask_ignored",
                place.path,
                "warning",
                "The layer gets a mask and ignores it: padding is part of the statistics.",
                {"masked_calls": len(masked)},
                cures.replaced(examined.model, cures.ours(place.norm), place),
            )


def redundant_bias(examined: Examined) -> Iterator[Finding]:
    """Biases that the next normalization subtracts."""
    for place in examined.places:
        before, norm = place.before, place.norm
        removes = is_batch_normalization(place.layer) or isinstance(norm, layers.InstanceNormalization)
        if before is None or not removes or not is_linear(before) or not has_linear_output(before):
            continue
        if before.use_bias and _is_axis_of_channels(place, before):
            yield Finding(
                "redundant_bias",
                place.path,
                "note",
                f"The bias of {before.name!r} has no effect: the normalization subtracts it with the mean. It costs "
                "memory but does no harm. The cure builds an untrained model.",
                {"biases": int(np.prod(before.bias.shape))},
                cures.cloned(f'({{"use_bias": False}} if layer.name == {before.name!r} else {{}})'),
            )


def epsilon_dominates(examined: Examined) -> Iterator[Finding]:
    """Inputs so small that epsilon dominates the variance."""
    for place, found in examined.measured():
        if found.below_epsilon > 0.5 and found.variance < DOMINATED * place.norm.epsilon:
            smaller = float(f"{found.variance / 1000:.0e}")
            yield Finding(
                "epsilon_dominates",
                place.path,
                "warning",
                f"{100 * found.below_epsilon:.0f} % of the sets have a variance below epsilon={place.norm.epsilon:g}. "
                "Their outputs are far from variance 1.",
                {"share": found.below_epsilon, "variance": found.variance, "epsilon": place.norm.epsilon},
                cures.changed(examined.model, place, epsilon=smaller),
            )


def float16_overflow(examined: Examined) -> Iterator[Finding]:
    """Activations near the limit of float16."""
    for place, found in examined.measured():
        if place.layer.compute_dtype == "float16" and not found.largest < FLOAT16_LIMIT / 2:
            yield Finding(
                "float16_overflow",
                place.path,
                "warning" if np.isfinite(found.largest) else "severe",
                f"Inputs reach {found.largest:.3g}. float16 ends at {FLOAT16_LIMIT:.0f}.",
                {"largest": found.largest, "limit": FLOAT16_LIMIT},
                "weights = model.get_weights(); "
                + cures.cloned(repr({"dtype": "mixed_bfloat16"}))
                + "; model.set_weights(weights)",
            )


def float16_statistics(examined: Examined) -> Iterator[Finding]:
    """Statistics that are stored or computed in half precision."""
    for place in examined.places:
        narrow = sorted({dtype_name(w.dtype) for w in place.layer.weights} & {"float16", "bfloat16"})
        squares = isinstance(place.norm, kl.RMSNormalization) and place.layer.compute_dtype == "float16"
        if not narrow and not squares:
            continue
        what = f"Its weights are {narrow[0]}" if narrow else "It squares its inputs in float16"
        then = "small updates of moving statistics are lost" if narrow else "inputs above 255 overflow"
        yield Finding(
            "float16_statistics",
            place.path,
            "warning",
            f"{what}: {then}.",
            {"bits": 16, "weights": len(place.layer.weights)},
            cures.replaced(examined.model, cures.ours(place.norm), place),
        )


def channel_axis(examined: Examined) -> Iterator[Finding]:
    """Channel axes that differ from those of the previous layer."""
    for place in examined.places:
        for call in place.calls:
            axis = getattr(place.norm, "axis", None)
            if call.source is None or isinstance(axis, (list, tuple)) or axis is None:
                continue
            if not _is_axis_of_channels(place, call.source, len(call.shape)):
                channels = (output_axes(call.source) or (-1,))[0]
                yield Finding(
                    "channel_axis",
                    place.path,
                    "severe",
                    f"The layer works on axis {axis}, but the channels of {call.source.name!r} lie on axis {channels}.",
                    {"axis": int(axis), "channel_axis": channels},
                    cures.changed(examined.model, place, axis=channels),
                )


def frozen_but_updating(examined: Examined) -> Iterator[Finding]:
    """Moving statistics that training updates although the layers around them are frozen."""
    if not examined.model.trainable_weights:
        return
    weighted = [layer for layer in all_layers(examined.model, is_leaf=is_leaf) if is_leaf(layer) and layer.weights]
    frozen = [k for k, layer in enumerate(weighted) if not is_normalization(layer) and _is_frozen_by_user(layer)]
    updating = [place for place in examined.places if place.uses_batch]
    between = [place for place in updating if frozen and frozen[0] < weighted.index(place.layer) < frozen[-1]]
    for place in updating:
        # A normalization after the last frozen layer may belong to a new head, unless others update, too.
        last = bool(between) and any(place.before is weighted[k] for k in frozen)
        around = place in between or last
        affine = [w for w in (place.norm.gamma, place.norm.beta) if w is not None]
        if around or (affine and not any(w.trainable for w in affine)):
            yield Finding(
                "frozen_but_updating",
                place.path,
                "warning",
                "Weights around it are frozen, but each training step changes its moving statistics."
                if around
                else "gamma and beta are frozen, but each training step changes the moving statistics.",
                {"frozen_layers": len(frozen), "momentum": float(place.norm.momentum)},
                "model = keras_norm.models.freeze_batch_normalization(model)",
            )


def repeated_normalization(examined: Examined) -> Iterator[Finding]:
    """A normalization that directly follows another one."""
    for place in examined.places:
        if place.before is not None and is_normalization(place.before) and not _only_rescales(place):
            yield Finding(
                "repeated_normalization",
                place.path,
                "warning",
                f"It normalizes the output of the normalization {place.before.name!r}.",
                {"normalizations": 2},
                cures.replaced(examined.model, "lambda layer: keras.layers.Identity(name=layer.name)", place),
            )


def decayed_affine(examined: Examined) -> Iterator[Finding]:
    """gamma and beta that weight decay or a regularizer pulls to 0."""
    optimizer: Any = getattr(examined.model, "optimizer", None) if examined.model.compiled else None
    for place in examined.places:
        norm = place.norm
        regularizers = {
            name: getattr(norm, name, None) for name in ("gamma_regularizer", "beta_regularizer") if hasattr(norm, name)
        }
        regularized = {name: r.get_config() for name, r in regularizers.items() if r is not None}
        if regularized:
            yield Finding(
                "decayed_affine",
                place.path,
                "note",
                "A regularizer pulls gamma or beta to 0.",
                regularized,
                cures.changed(examined.model, place, **dict.fromkeys(regularized)),
            )
        decayed = [w for w in place.layer.trainable_weights if optimizer and uses_weight_decay(optimizer, w)]
        if decayed:
            names = sorted({w.name for w in place.layer.trainable_weights})
            yield Finding(
                "decayed_affine",
                place.path,
                "note",
                f"The weight decay of the optimizer pulls {' and '.join(names)} to 0.",
                {"weight_decay": float(optimizer.weight_decay), "weights": len(decayed)},
                "optimizer = type(model.optimizer).from_config(model.optimizer.get_config()); "
                f"optimizer.exclude_from_weight_decay(var_names={names}); model.compile(optimizer, model.loss)",
            )


RULES: list[Rule] = [
    one_position_sets,
    channel_axis,
    float16_overflow,
    training_inference_gap,
    stale_moving_statistics,
    unsynchronized_replicas,
    small_sets,
    statistics_over_time,
    mask_ignored,
    epsilon_dominates,
    float16_statistics,
    frozen_but_updating,
    repeated_normalization,
    redundant_bias,
    decayed_affine,
]


def _smallest_sets(examined: Examined) -> Iterator[tuple[Place, int]]:
    """The number of positions of the smallest set of each normalization, where known."""
    for place in examined.places:
        for call in place.calls:
            for of in sets_of(place.norm, call):
                positions = positions_in(of, call.shape)
                if 0 not in of.axes and positions is not None:
                    yield place, positions
    for place, found in examined.measured():
        if place.uses_batch:
            yield place, found.global_positions


def _small_batches(examined: Examined) -> Iterator[tuple[Place, int, int]]:
    """Batch normalizations with few samples or positions in training, and both numbers, the smallest sets first."""
    for place, found in sorted(examined.measured(), key=lambda pair: pair[1].global_positions):
        samples, positions = _samples_and_positions(place, found)
        if place.uses_batch and (samples <= FEW_SAMPLES or positions < FEW_POSITIONS):
            yield place, samples, positions


def _samples_and_positions(place: Place, found: Measured) -> tuple[int, int]:
    """The size of a set of a batch normalization in training, over the replicas that share it."""
    together = found.global_positions // max(found.positions, 1)
    samples, positions = found.samples * together, found.global_positions
    ghost = getattr(place.norm, "ghost_size", samples)
    return min(ghost, samples), positions * min(ghost, samples) // max(samples, 1)


def _helped_by_other_replicas(examined: Examined, place: Place) -> bool:
    synchronizable = isinstance(place.norm, kl.BatchNormalization) or hasattr(place.norm, "synchronized")
    ghost = isinstance(place.norm, layers.GhostBatchNormalization)
    return examined.replicas > 1 and synchronizable and not ghost and not getattr(place.norm, "synchronized", False)


def _staleness(examined: Examined, found: Measured) -> tuple[float, float] | None:
    """The distance and the factor of the median channel, or None if the statistics are not stale.

    The factor is the ratio of the variances or its inverse, whichever is above 1, so ratios of 1/4 and 4 do not cancel.
    The table of the report shows the median of the ratios.
    """
    if found.distance is None or found.ratio is None or examined.measurement is None:
        return None
    distance, factor = float(np.median(found.distance)), float(np.exp(np.median(np.abs(np.log(found.ratio)))))
    far_off, too_different = _stale_limits(examined)
    is_stale = distance > far_off or factor > too_different
    return (distance, factor) if is_stale and np.isfinite(distance) else None


def _stale_limits(examined: Examined) -> tuple[float, float]:
    """The limits of distance and factor for the number of measured samples."""
    samples = examined.measurement.samples if examined.measurement else 0
    uncertain = 1 / np.sqrt(max(samples, 1))
    return STALE_DISTANCE + 2 * uncertain, STALE_FACTOR + 4 * uncertain


def _is_axis_of_channels(place: Place, source: Layer, rank: int | None = None) -> bool:
    """Whether the layer's axis is the channel axis of `source`."""
    rank = rank or (len(place.calls[0].shape) if place.calls else None)
    axes = output_axes(source)
    if rank is None or axes is None or len(axes) != 1:
        return True
    return axes[0] % rank in {a % rank for a in arguments.listed_axes(place.norm.axis)}


def _only_rescales(place: Place) -> bool:
    return isinstance(place.norm, (layers.DynamicTanh, layers.GlobalResponseNormalization))


def _is_frozen_by_user(layer: Layer) -> bool:
    return not any(weight.trainable for weight in layer.weights)
