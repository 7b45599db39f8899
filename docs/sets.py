"""Draws the set S_i of each layer: `python docs/sets.py` writes docs/sets.png.

The sets are not drawn by hand: S_i is where the gradient of one output y_i is not zero.
"""

from pathlib import Path

import keras
import matplotlib
import numpy as np
import tensorflow as tf

import keras_norm as kn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N, HW, C = 5, 6, 6
LAYERS = {
    "BatchNormalization": kn.BatchNormalization(),
    "LayerNormalization\n(axis=None)": kn.LayerNormalization(axis=None),
    "InstanceNormalization": kn.InstanceNormalization(),
    "GroupNormalization\n(groups=2)": kn.GroupNormalization(2),
}


def set_of(layer: keras.layers.Layer, i: tuple[int, int, int]) -> np.ndarray:
    """Where x moves y_i, for x of shape (N, HW, C)."""
    x = tf.constant(np.random.default_rng(0).normal(size=(N, HW, C)), "float32")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y_i = layer(x, training=True)[i]
    return np.abs(tape.gradient(y_i, x)) > 1e-7


def draw(ax: plt.Axes, members: np.ndarray, title: str) -> None:
    """A cube with channels across, samples into the page and space upwards."""
    cube = members.transpose(2, 0, 1)[:, :, ::-1]
    colors = np.where(cube[..., None], (0.13, 0.45, 0.78, 1.0), (0.93, 0.94, 0.96, 1.0))
    ax.voxels(np.ones(cube.shape, bool), facecolors=colors, edgecolor=(0.45, 0.5, 0.55), linewidth=0.4, shade=False)
    ax.set(xticks=[], yticks=[], zticks=[], box_aspect=(C, N, HW))
    ax.set_title(title, fontsize=15)
    for name, label in {"x": "C", "y": "N", "z": "H, W"}.items():
        ax.set(**{f"{name}label": label})
        axis = getattr(ax, f"{name}axis")
        axis.labelpad = -10
        axis.label.set_fontsize(15)
    ax.view_init(22, -60)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_visible(False)
        axis.line.set_color((0, 0, 0, 0))


def main() -> None:
    """Draws one cube per layer for the position at the front."""
    figure, axes = plt.subplots(2, 2, figsize=(7, 8), subplot_kw={"projection": "3d"})
    for ax, (title, layer) in zip(axes.flat, LAYERS.items(), strict=True):
        draw(ax, set_of(layer, (0, 0, C - 1)), title)
    figure.subplots_adjust(left=0, right=0.98, bottom=0.02, top=0.91, wspace=0, hspace=0.22)
    figure.savefig(Path(__file__).with_name("sets.png"), dpi=120)


if __name__ == "__main__":
    main()
