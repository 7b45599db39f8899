"""Times the layers against keras.layers and the backend's own layers, and writes CSV, Markdown and PNG.

The parts:
    layers       each layer alone, forward and forward + backward, including updates of moving statistics.
                 Peers: keras.layers; FusedBatchNormV3 of TensorFlow; flax.nnx; torch.nn.functional, with channels
                 last, as in Keras, and with the layout of torch's kernels (axis=1)
    small_calls  eager calls on a tiny tensor, and train_on_batch of a tiny model: the fixed cost of a call
    steps        training steps of a ResNet-50
    replicas     the same under tf.distribute.MirroredStrategy, with statistics over all replicas (TensorFlow)

The contenders take turns, so a slowdown of the machine affects all of them. A time is the median over the turns. A
ratio is the time of a peer over ours: above 1, ours is faster. A limit is the time for the necessary memory traffic
(forward: read x, write y; with the backward pass also read x and dy, write dx) at the bandwidth of a copy.

    python -m benchmarks                                                  # TensorFlow, graph mode
    python -m benchmarks --parts layers --modes graph eager xla --dtype bfloat16
    python -m benchmarks --backend jax                                    # against flax
    python -m benchmarks --backend torch --modes eager compile
    python -m benchmarks --parts replicas
    python -m benchmarks --parts layers --modes xla --shapes 256x56x56x256  # a GPU; launches dominate below
"""

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

PARTS = ("layers", "small_calls", "steps", "replicas")
LAYERS = ("batch", "group", "instance", "layer")
MODES = {"tensorflow": ("graph", "eager", "xla"), "jax": ("jit",), "torch": ("eager", "compile")}  # the default first
SHAPES = ((16, 56, 56, 64), (16, 28, 28, 256), (8, 1024, 768), (2, 16, 28, 28, 64))


def shape(text: str) -> tuple[int, ...]:
    """Parses a shape such as 16x56x56x64."""
    return tuple(int(size) for size in text.split("x"))


def argument_parser() -> argparse.ArgumentParser:
    """The flags and their defaults."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=Help)
    add = parser.add_argument
    add("--backend", choices=MODES, default=os.environ.get("KERAS_BACKEND", "tensorflow"), help="the backend of Keras")
    add("--cpu", action="store_true", help="use the CPU, even if there is a GPU")
    add("--parts", nargs="+", choices=PARTS, default=PARTS[:3], help="see above")
    add(
        "--modes", nargs="+", help="of layers and steps: " + "; ".join(f"{b}: {', '.join(m)}" for b, m in MODES.items())
    )
    add("--layers", nargs="+", choices=LAYERS, default=LAYERS, help="of layers; of steps and replicas, batch and group")
    add("--shapes", nargs="+", type=shape, default=SHAPES, help="such as 16x56x56x64, channels last")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of layers and steps")
    add("--batches", nargs="+", type=int, default=[8], help="of the steps, on each replica")
    add("--image-size", type=int, default=64, help="of the steps")
    add("--turns", type=int, default=15, help="timed turns of each contender")
    add("--output", type=Path, default=Path("results"), help="folder to write to")
    return parser


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Prints the docstring unchanged, and the defaults."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the selected parts."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    args.modes = args.modes or MODES[args.backend][:1]
    if unknown := set(args.modes) - set(MODES[args.backend]):
        parser.error(f"--modes {' '.join(unknown)}: {args.backend} has {', '.join(MODES[args.backend])}")
    if "replicas" in args.parts and args.backend != "tensorflow":
        parser.error("--parts replicas: tf.distribute is TensorFlow's")
    # Keras and its backend read these on import.
    os.environ["KERAS_BACKEND"] = args.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if args.cpu:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    from benchmarks import report

    print(report.machine())
    args.output.mkdir(parents=True, exist_ok=True)
    for name, rows, drawn in runs(args):
        report.write(rows, args.output / name, *drawn)


def runs(args: argparse.Namespace) -> Iterator[tuple[str, Iterable, tuple]]:
    """For each part: the file name, the rows, and the fields for panels, groups and heights of the picture."""
    from benchmarks import layers, small_calls, steps

    if "replicas" in args.parts:
        steps.two_replicas()
    of_dtype = args.backend if args.dtype == "float32" else f"{args.backend}_{args.dtype}"
    if "layers" in args.parts:
        for mode in args.modes:
            rows = layers.rows(args.layers, args.shapes, args.dtype, mode, args.turns)
            yield f"layers_{of_dtype}_{mode}", rows, (("layer", "step"), "shape", "limits")
    if "small_calls" in args.parts:
        yield f"small_calls_{args.backend}", small_calls.rows(args.turns), (("step",), "layer", "ms")
    of_network = (args.layers, args.batches, args.image_size, args.dtype)
    if "steps" in args.parts:
        rows = (row for mode in args.modes for row in steps.rows(*of_network, mode, args.turns))
        yield f"steps_{of_dtype}", rows, (("mode", "shape"), "layer", "ms")
    if "replicas" in args.parts:
        rows = steps.rows_on_replicas(*of_network, args.turns)
        yield f"replicas_{of_dtype}", rows, (("mode", "shape"), "layer", "ms")


if __name__ == "__main__":
    main()
