"""Clips of a video at a small batch: what a longer clip brings, and what a smaller batch costs.

    python tutorials/experiments/video.py                 # the digits in motion
    python tutorials/experiments/video.py --dataset fashion_mnist --train-images 1400

Trains a small 3-D network with Batch and with Group Normalization on clips of some length, so many at a step (Wu & He,
Group Normalization, ECCV 2018, https://arxiv.org/abs/1803.08494, section 4.3, table 8). All runs see the same number
of clips, so that a smaller batch means more steps. Two controls tell the batch from the steps: "ghost" takes the
statistics of Batch Normalization over 2 clips and the gradient over 8, as four devices with two clips each do; and
"fewer clips" makes the steps of a batch of 8 with a batch of 2. Writes each run to a CSV file; prints the tables and
draws the figure.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import matplotlib.pyplot as plt
import pandas as pd

import keras_norm as kn
from command_line import Progress, parser, positive, record
from keras_norm.tutorials import clips, figures, tables
from keras_norm.tutorials.training import compile_classifier, error

FEW_STEPS = ", as few steps"


class Setting(NamedTuple):
    """How a run trains: the length of a clip, the clips at a step, and what it changes besides."""

    frames: int
    clips: int
    ghost: int | None = None  # the clips over which Batch Normalization takes its statistics, all if None
    share: float = 1.0  # of the clips of the other runs

    @property
    def label(self) -> str:
        """The setting in words, the length of the clips aside."""
        if self.ghost:
            return f"{self.clips} clips, statistics over {self.ghost}"
        return f"{self.clips} clips" if self.share == 1 else f"{self.clips} clips{FEW_STEPS}"


def settings(name: str, frames: Sequence[int], large: int, small: int) -> list[Setting]:
    """The settings of the normalization `name`: Group Normalization has no statistics over several clips."""
    made = []
    for length in frames:
        made.append(Setting(length, large))
        if name == "batch":
            made.append(Setting(length, large, ghost=small))
        made += [Setting(length, small), Setting(length, small, share=small / large)]
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for."""
    flags = argument_parser()
    args = flags.parse_args(arguments)
    if args.large % args.small or args.large == args.small:
        flags.error(f"--small: must divide --large. Received: {args.small} and {args.large} clips")
    try:
        data = clips.load(args.dataset, args.noise, args.train_images, args.data_dir)
        data.train(frames=1, batch_size=args.large, seed=0)
    except ValueError as error:
        flags.error(str(error))
    print(f"{args.dataset}: {data.train_size} training clips of {data.frame_shape}, {args.epochs} epochs a run")
    runs = record(experiment(data, args), args.output / "video.csv")
    draw(runs, args.output / "video.png")
    tables.show(results(runs))


def argument_parser() -> argparse.ArgumentParser:
    """The flags, with the default run's values."""
    flags = parser(__doc__)
    add = flags.add_argument
    add("--frames", nargs="+", type=positive, default=[8, 32], metavar="N", help="frames of a clip")
    add("--large", type=positive, default=8, metavar="N", help="clips at a step with a large batch")
    add("--small", type=positive, default=2, metavar="N", help="clips at a step with a small one")
    add("--noise", type=float, default=1.0, help="of a pixel in a frame, in standard deviations of the images")
    add("--epochs", type=positive, default=6, metavar="N", help="passes over the training images, a clip of each")
    add("--learning-rate", type=float, default=0.02, help="at a large batch, in proportion at others; falls to 0")
    return flags


def experiment(data: clips.Clips, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Trains and tests every normalization in each of its settings, whole seeds first."""
    for seed in range(args.seeds):
        for name in ("batch", "group"):
            for setting in settings(name, args.frames, args.large, args.small):
                title = f"seed {seed}, {name:>5}, {setting.frames:>2} frames, {setting.label:>26}"
                progress = Progress(title, 1)
                steps = int(setting.share * args.epochs * data.train_size // setting.clips)
                percent = test_error(data, name, setting, steps, seed, args, progress)
                progress.finish(f"error {percent:4.1f} %")
                run = {"dataset": args.dataset, "normalization": name, "setting": setting.label}
                run |= {"frames": setting.frames, "clips": setting.clips, "seed": seed, "steps": steps}
                yield run | {"epochs": args.epochs, "noise": args.noise, "error": percent}


def test_error(
    data: clips.Clips,
    name: str,
    setting: Setting,
    steps: int,
    seed: int,
    args: argparse.Namespace,
    progress: Progress,
) -> float:
    """The test error in percent, on clips as long as those of the training."""
    keras.utils.set_random_seed(seed)
    model = network(data, name, setting.ghost)
    rate = args.learning_rate * setting.clips / args.large
    # XLA is slow in 3-D convolutions on a CPU: of 32 frames it takes 5 to 10 times as long.
    compile_classifier(model, rate, steps, jit_compile=False, steps_per_execution=16)
    batches = data.train(setting.frames, setting.clips, seed).repeat()
    model.fit(batches, epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[progress])
    return error(model, data.test(setting.frames))


def network(data: clips.Clips, name: str, ghost: int | None) -> keras.Model:
    """The network of the clips with the normalization `name`, its statistics over `ghost` clips if given."""
    if ghost:
        return clips.network(data.frame_shape, data.classes, lambda: kn.GhostBatchNormalization(ghost))
    return clips.network(data.frame_shape, data.classes, clips.NORMALIZATIONS[name])


def results(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables of the experiment: errors, and changes of the error within a seed."""
    dataset = runs["dataset"][0]
    tables_of_errors = {
        f"{dataset}, {tables.STYLES[name].label}: test error (%)": tables.summary(
            part.assign(frames=part["frames"].map("{} frames".format)), "setting", "frames", "error"
        )
        for name, part in runs.groupby("normalization", sort=False)
    }
    return tables_of_errors | {f"{dataset}, change of the error (points)": changes(runs)}


def changes(runs: pd.DataFrame) -> pd.DataFrame:
    """What the smaller batch, the longer clip and both together change, as the paper reads its table.

    The change is within a seed; its mean and standard deviation are over the seeds.
    """
    short, long = sorted(runs["frames"].unique())
    large = max(runs["clips"])
    table = {}
    for name, part in runs.groupby("normalization", sort=False):
        errors = part.pivot(index="seed", columns=["setting", "frames"], values="error")
        before = errors[f"{large} clips", short]
        for setting in [label for label in part["setting"].unique() if label != f"{large} clips"]:
            after, longer = errors[setting, short], errors[setting, long]
            table[f"{tables.STYLES[name].label}, {setting}"] = {
                "smaller batch": change(after - before),
                "then longer clips": change(longer - after),
                "both together": change(longer - before),
            }
    return pd.DataFrame.from_dict(table, orient="index")


def change(differences: pd.Series) -> str:
    """Mean and standard deviation as text, with the sign of the mean."""
    return ("+" if differences.mean() > 0 else "") + tables.spread(differences)


def draw(runs: pd.DataFrame, path: Path) -> None:
    """The error in each setting that sees all clips, a panel for each length of the clips."""
    runs = runs[~runs["setting"].str.endswith(FEW_STEPS)].reset_index(drop=True)
    lengths = sorted(runs["frames"].unique())
    figure, panels = plt.subplots(1, len(lengths), figsize=(11, 4.2), layout="constrained", sharey=True, squeeze=False)
    labels = runs["setting"].unique()
    for axes, frames in zip(panels[0], lengths, strict=True):
        part = runs[runs["frames"] == frames]
        values = {
            name: part[part["normalization"] == name].pivot(index="seed", columns="setting", values="error")
            for name in part["normalization"].unique()
        }
        figures.bars(
            axes,
            [label.replace(", ", ",\n") for label in labels],
            {n: v.reindex(columns=labels) for n, v in values.items()},
        )
        axes.set_title(f"clips of {frames} frames")
        axes.grid(axis="y", alpha=0.3)
    panels[0, 0].set_ylabel("test error (%)")
    panels[0, 0].legend()
    dataset, epochs, noise = runs.loc[0, ["dataset", "epochs", "noise"]]
    figure.suptitle(f"{dataset} in motion, noise {noise}, {epochs} epochs, {runs['seed'].nunique()} seeds")
    figures.save(figure, path)


if __name__ == "__main__":
    main()
