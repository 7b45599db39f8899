"""Times each layer and its peers, forward and with the gradient, as a multiple of what the memory allows.

The unit of a time is the limit: the bytes that must move (forward: read x, write y; with the gradient three more: read
x and dy, write dx) at the bandwidth of the quickest copy of the same run. Layers and peers take turns, so that a
machine that slows down slows all of them; a number is the median of the turns. Prints a table; writes it as CSV and as
a bar chart. With `--steps` it times whole training steps of a ResNet-50 instead.

    python -m benchmarks                                          # TensorFlow, graph mode, every layer
    python -m benchmarks --mode xla --dtype bfloat16 --shapes resnet_3
    python -m benchmarks --backend jax                            # beside flax
    python -m benchmarks --steps                                  # of a ResNet-50, with GN and cross-replica BN
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

LAYERS = ("batch", "group", "instance", "layer")
SHAPES = {
    "resnet_1": (16, 56, 56, 64),
    "resnet_2": (16, 28, 28, 256),
    "resnet_3": (16, 14, 14, 1024),
    "resnet_4": (16, 7, 7, 2048),
    "transformer": (8, 1024, 768),
    "video": (2, 16, 28, 28, 64),
    "tiny": (2, 4, 4, 32),
}


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=Help)
    add = parser.add_argument
    add("--backend", choices=["tensorflow", "jax"], default="tensorflow", help="of Keras; torch is a peer of both")
    add("--device", choices=["cpu", "gpu"], help="a GPU where there is one, if not given")
    add("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    add("--shapes", nargs="+", choices=SHAPES, default=["resnet_1", "resnet_2", "transformer", "video"])
    add("--batch", type=int, help="in place of the batch of each shape")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    add("--mode", choices=["eager", "graph", "xla"], default="graph", help="of TensorFlow; JAX always compiles")
    add("--compilation", choices=["auto", "always", "never"], default="auto", help="keras_norm.compilation.set_mode")
    add("--repeats", type=int, default=15, help="timed turns of each contender")
    add("--steps", action="store_true", help="time training steps of a ResNet-50 instead of layers")
    add("--batches", nargs="+", type=int, default=[32, 2], help="batch sizes of the steps")
    add("--image-size", type=int, default=64, help="of the steps; the paper's is 224")
    add("--output", type=Path, default=Path("results"), help="folder of the CSV and the PNG")
    return parser


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the text above as it stands, and the defaults."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    parser = argument_parser()
    args = parser.parse_args(arguments)
    if args.steps and args.backend != "tensorflow":
        parser.error("--steps: strategies and modes are TensorFlow's")
    # Both are read when Keras and its backend are first imported.
    os.environ["KERAS_BACKEND"] = args.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if args.device == "cpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    from benchmarks import layers, report, steps

    args.output.mkdir(parents=True, exist_ok=True)
    print(report.machine(args.backend))
    if args.steps:
        rows = list(steps.compare(args.batches, args.image_size, args.dtype, args.repeats))
        report.write(rows, args.output / "steps.csv")
        report.draw_steps(rows, args.output / "steps.png")
    else:
        shapes = {name: SHAPES[name] for name in args.shapes}
        if args.batch:
            shapes = {name: (args.batch, *shape[1:]) for name, shape in shapes.items()}
        rows = [
            row for layer in args.layers for name in shapes for row in layers.compare(layer, name, shapes[name], args)
        ]
        report.write(rows, args.output / "layers.csv")
        report.draw_layers(rows, args.output / "layers.png")
        print(f"\n{report.table(rows)}")
    print(f"\nwritten to {args.output}/")


if __name__ == "__main__":
    main()
