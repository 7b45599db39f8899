"""How the classifiers of the tutorials are trained and tested."""

import keras
import tensorflow as tf


def compile_classifier(
    model: keras.Model,
    learning_rate: float,
    steps: int,
    weight_decay: float | None = None,
    jit_compile: bool = True,
    steps_per_execution: int = 32,
) -> None:
    """Compiles `model` for SGD with momentum 0.9 and a learning rate that falls from `learning_rate` to 0.

    A step of a small network on a few small images is short. With XLA, and many steps in a call, it takes a seventh of
    the time on a CPU.

    Args:
        model: a network with logits as outputs.
        learning_rate: that of the first step.
        steps: the number of steps of the training.
        weight_decay: per step and in units of the learning rate; none if None.
        jit_compile: False where XLA cannot be used, as with several replicas.
        steps_per_execution: steps in a call.
    """
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(
        optimizer=keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=weight_decay),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )


def error(model: keras.Model, batches: tf.data.Dataset) -> float:
    """The share of images in percent that the compiled classifier `model` gets wrong."""
    _, accuracy = model.evaluate(batches, verbose=0)
    return round(100 * (1 - accuracy), 2)
