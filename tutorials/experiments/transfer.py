"""What segmentation.py and detection.py share: a trained backbone, and what to do with its normalizations."""

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import matplotlib.pyplot as plt
import pandas as pd
import tensorflow as tf

import keras_norm as kn
from command_line import Progress, parser, positive
from keras_norm.tutorials import dense, figures, scenes, tables
from keras_norm.tutorials.devices import devices
from keras_norm.tutorials.training import error

GROUPS = 4
BODIES = {"batch": kn.BatchNormalization, "group": partial(kn.GroupNormalization, groups=GROUPS)}
EXECUTION = 16
"""Steps in a call, on one device."""


def own_copy(body: keras.Model) -> keras.Model:
    """The same backbone, with separate weights of the same values."""
    return kn.models.replace_normalization(body, lambda norm: norm)


def group(body: keras.Model) -> keras.Model:
    """The backbone with Group Normalization, which takes over gamma and beta."""
    return kn.models.replace_normalization(body, BODIES["group"]())


class Method(NamedTuple):
    """Which backbone is taken, how it is converted, and what normalizes the layers that are new."""

    body: str
    convert: Callable[[keras.Model], keras.Model]
    heads: dense.Normalization | None


METHODS = {
    "batch": Method("batch", own_copy, BODIES["batch"]),
    "frozen": Method("batch", kn.models.freeze_batch_normalization, None),
    "frozen_group": Method("batch", kn.models.freeze_batch_normalization, BODIES["group"]),
    "converted": Method("batch", group, BODIES["group"]),
    "group": Method("group", own_copy, BODIES["group"]),
    "synchronized": Method(
        "batch", kn.models.synchronize_batch_normalization, partial(kn.BatchNormalization, synchronized=True)
    ),
}
ALONE = ("batch", "frozen", "frozen_group", "converted", "group")


class Setting(NamedTuple):
    """How many images a step sees, and for how many steps relative to one device with the usual number of images."""

    images: int
    replicas: int
    length: float

    @property
    def name(self) -> str:
        """In words, the name of a column."""
        if self.replicas == 1:
            return f"{self.images} image{'s' if self.images > 1 else ''}"
        return f"{self.replicas} devices, equal {'steps' if self.length == 1 else 'images'}"


class Task(NamedTuple):
    """A network on top of the backbone, and how it is trained and scored."""

    network: Callable[..., keras.Model]
    target: Callable[[scenes.Scene], tf.Tensor]
    loss: Any
    score: Callable[[keras.Model], float]


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(description)
    add = flags.add_argument
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="what to compare")
    add("--images", type=positive, default=2, metavar="N", help="images a step, on each device")
    add("--single", nargs="*", choices=ALONE, default=["batch", "group"], help="what to train at 1 image a step too")
    add("--lengths", nargs="+", choices=["images", "steps"], default=["images", "steps"], help="as many as one device")
    add("--replicas", nargs="+", type=positive, default=[2, 4], metavar="N", help="devices that synchronize")
    add("--steps", type=positive, default=5120, metavar="N", help="steps on one device; a multiple of 16")
    add("--learning-rate", type=float, default=0.003, help="of Adam, the same at all settings; falls to 0")
    add("--pretraining-steps", type=positive, default=1280, metavar="N", help="steps of the classifier, at 32 images")
    add("--backbones", type=Path, help="folder to keep the trained backbones in, or to take them from")
    add("--train-scenes", type=positive, default=800, metavar="N", help="different training scenes")
    add("--test-scenes", type=positive, default=300, metavar="N", help="test scenes")
    add("--light", type=float, default=0.5, help="how much the light differs from scene to scene; 0 for not at all")
    return flags


def settings(name: str, args: argparse.Namespace) -> list[Setting]:
    """In which settings the method `name` is trained."""
    if name == "synchronized":
        return [Setting(args.images, n, length) for n in args.replicas for length in lengths(n, args)]
    usual = Setting(args.images, 1, 1.0)
    return [Setting(1, 1, float(args.images)), usual] if name in args.single and args.images > 1 else [usual]


def lengths(replicas: int, args: argparse.Namespace) -> list[float]:
    """How long `replicas` devices train relative to one."""
    return [{"images": 1 / replicas, "steps": 1.0}[kept] for kept in args.lengths]


def experiment(task: Task, data: scenes.Scenes, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Trains and scores every method in its settings, then again from the next seed.

    A row has the score of the trained network. That of BN is followed by one with recalibrated statistics.
    """
    backbones = pretrained(args)
    kinds = [(name, setting) for name in args.methods for setting in settings(name, args)]
    for seed, (name, setting) in itertools.product(range(args.seeds), kinds):
        steps = round(args.steps * setting.length)
        row = {"dataset": args.dataset, "method": name, "images": setting.images, "replicas": setting.replicas}
        row |= {"setting": setting.name, "steps": steps, "seed": seed}
        model = trained(task, data, backbones[METHODS[name].body][seed], name, setting, seed, steps, args)
        yield row | {"score": task.score(model)}
        if name == "batch":
            batches = data.train(32, seed, task.target)
            kn.models.recalibrate_batch_normalization(model, batches, data.train_size // 32, verbose=0)
            yield row | {"method": "recalibrated", "score": task.score(model)}


def pretrained(args: argparse.Namespace) -> dict[str, list[keras.Model]]:
    """For each normalization a backbone from each seed, trained to classify scenes of a single item."""
    names = dict.fromkeys(METHODS[method].body for method in args.methods)
    if args.backbones is None:
        return {name: classifiers(name, args) for name in names}
    args.backbones.mkdir(parents=True, exist_ok=True)
    bodies = {}
    for name in names:
        paths = [args.backbones / f"{name}_{seed}.keras" for seed in range(args.seeds)]
        if not all(path.exists() for path in paths):
            for body, path in zip(classifiers(name, args), paths, strict=True):
                body.save(path)
        bodies[name] = [keras.saving.load_model(path, compile=False) for path in paths]
    return bodies


def classifiers(name: str, args: argparse.Namespace) -> list[keras.Model]:
    """The backbones with the normalization `name`; prints how well they classify."""
    items = scenes.load(args.dataset, 4 * args.train_scenes, args.test_scenes, 1, args.light, args.data_dir)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    progress = Progress(f"{name}: {args.seeds} classifiers", 1)
    bodies, errors = [], []
    for seed in range(args.seeds):
        keras.utils.set_random_seed(seed)
        body = dense.backbone(BODIES[name])
        model = dense.classifier(body, items.classes)
        compile_model(model, loss, 0.005, args.pretraining_steps, metrics=["accuracy"])
        batches = items.train(32, seed, scenes.label)
        model.fit(batches, steps_per_epoch=args.pretraining_steps, shuffle=False, verbose=0)
        errors.append(error(model, items.test(scenes.label)))
        bodies.append(body)
    progress.finish(f"test error {tables.spread(errors)} %")
    return bodies


def trained(
    task: Task,
    data: scenes.Scenes,
    body: keras.Model,
    name: str,
    setting: Setting,
    seed: int,
    steps: int,
    args: argparse.Namespace,
) -> keras.Model:
    """The network of the task on the converted backbone, after its training."""
    progress = Progress(f"{name}, {setting.name}, seed {seed}", 1)
    method, alone = METHODS[name], setting.replicas == 1
    # Its sums run on one device: the collectives of strategies with 2 and with 4 devices collide in a process.
    sums = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.get_strategy() if alone else tf.distribute.MirroredStrategy(placed(setting.replicas), sums)
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        model = task.network(method.convert(body), data.classes, method.heads)
        compile_model(model, task.loss, args.learning_rate, steps, alone)
    batches = data.train(setting.images * setting.replicas, seed, task.target)
    history = model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0).history
    progress.finish(f"loss {history['loss'][-1]:.3f}")
    return model


def compile_model(
    model: keras.Model, loss: Any, rate: float, steps: int, alone: bool = True, metrics: list[str] | None = None
) -> None:
    """Compiles the model with Adam at a rate that falls to 0."""
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps)),
        loss=loss,
        metrics=metrics,
        jit_compile=alone,  # XLA cannot be used with several replicas
        steps_per_execution=EXECUTION if alone else 1,
    )


def prepare(args: argparse.Namespace) -> None:
    """Makes the devices, before TensorFlow is used."""
    if "synchronized" in args.methods:
        # Each device holds a thread while it waits for the sums of the others.
        tf.config.threading.set_inter_op_parallelism_threads(4 * max(args.replicas))
        devices(max(args.replicas))


def placed(replicas: int) -> list[str]:
    """The first devices."""
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [f"{kind}:{i}" for i in range(replicas)]


def results(runs: pd.DataFrame, corner: str) -> dict[str, pd.DataFrame]:
    """The table of the experiment: mean and standard deviation over the seeds, by images on each device."""
    order = runs.sort_values(["replicas", "images", "steps"], kind="stable")["setting"].unique()
    return {corner: tables.summary(runs, "method", "setting", "score")[order]}


def draw(runs: pd.DataFrame, axis: str, path: Path) -> None:
    """A row for each method and setting: a mark for each run, and a line at their mean."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    kinds = list(dict.fromkeys(zip(runs["method"], runs["setting"], strict=True)))
    for place, (name, setting) in enumerate(kinds):
        scores = runs[(runs["method"] == name) & (runs["setting"] == setting)]["score"]
        _, color, marker = figures.style(name)
        axes.plot(scores, [place] * len(scores), marker, color=color, alpha=0.6)
        axes.plot([scores.mean()] * 2, [place - 0.35, place + 0.35], color=color, linewidth=2)
    labels = [f"{figures.style(name).label}, {setting}" for name, setting in kinds]
    axes.set_yticks(range(len(kinds)), labels)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.grid(alpha=0.3)
    axes.set_title(f"{runs['dataset'][0]}, {runs['seed'].nunique()} seeds, images on each device")
    figures.save(figure, path)
