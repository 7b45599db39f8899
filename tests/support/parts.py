"""A batch in parts of different sizes, means and scales, and what one device makes of the global batch (float64)."""

import keras
import numpy as np

import keras_norm as kn
from support.reference import differences, spread

TIME, CHANNELS = 5, 4
EPSILON, MOMENTUM = 1e-3, 0.75
GAMMA, BETA = np.linspace(0.5, 2.0, CHANNELS), np.linspace(-1.0, 1.0, CHANNELS)
HALF = keras.initializers.Constant(0.5)
SIZES = {
    1: [(5,)],
    2: [(4, 4), (3, 5), (1, 7), (5, 0)],
    3: [(2, 4, 3), (4, 0, 1)],
    4: [(2, 3, 1, 4), (3, 3, 3, 0)],
}
SAMPLES_ON_JAX = (2, 2, 2, 2)  # its devices share a batch evenly
CALLS = {  # how the layer is made
    "synchronized": {"synchronized": True},
    "plain": {"synchronized": False},
    "mask of time": {"synchronized": True},
    "mask of inputs": {"synchronized": True},
    "plain, mask of inputs": {"synchronized": False},
    "mixed_float16": {"synchronized": True, "dtype": "mixed_float16"},
    "mixed_bfloat16": {"synchronized": True, "dtype": "mixed_bfloat16"},
    "offset 1e3": {"synchronized": True, "momentum": 0.0},
    "offset 1e4": {"synchronized": True, "momentum": 0.0},
    "batch renorm": {"layer": "BatchRenormalization", "synchronized": True, "r_max": 2.0, "d_max": 1.0},
    "batch instance": {"layer": "BatchInstanceNormalization", "synchronized": True, "rho_initializer": HALF},
    "switchable": {"layer": "SwitchableNormalization", "synchronized": True},
    "plain, runs of 2": {"layer": "GhostBatchNormalization", "ghost_size": 2},
    "pairs": {"synchronized": 2},
    "pairs, mask of inputs": {"synchronized": 2},
    "pairs, batch renorm": {"layer": "BatchRenormalization", "synchronized": 2, "r_max": 2.0, "d_max": 1.0},
    "pairs, batch instance": {"layer": "BatchInstanceNormalization", "synchronized": 2, "rho_initializer": HALF},
    "pairs, switchable": {"layer": "SwitchableNormalization", "synchronized": 2},
}


def calls(replicas):
    """Those of the calls that show anything on so many replicas."""
    return [call for call in CALLS if replicas == 4 or "pairs" not in call]


def made(call):
    """The layer of a call, built, with gamma and beta."""
    kwargs = {"momentum": MOMENTUM, "epsilon": EPSILON} | CALLS[call]
    layer = getattr(kn, kwargs.pop("layer", "BatchNormalization"))(**kwargs)
    layer.build((None, TIME, CHANNELS))
    layer.gamma.assign(GAMMA)
    layer.beta.assign(BETA)
    return layer


def inputs(sizes, call):
    """One part a replica."""
    rng = np.random.default_rng(0)
    offset = float(call.split()[1]) if call.startswith("offset") else 0.0
    return [
        rng.normal(3.0 * r + offset, 1.0 + r, (size, TIME, CHANNELS)).astype("float32") for r, size in enumerate(sizes)
    ]


def cotangents(sizes):
    rng = np.random.default_rng(1)
    return [rng.normal(size=(size, TIME, CHANNELS)).astype("float32") for size in sizes]


def masks(sizes, call):
    """One part a replica, or None: channel 2 is masked all through part 0, channel 3 in every part."""
    if "mask" not in call:
        return None
    rng = np.random.default_rng(2)
    if call.endswith("time"):
        return [rng.random((size, TIME)) < 0.6 for size in sizes]
    parts = [rng.random((size, TIME, CHANNELS)) < 0.6 for size in sizes]
    parts[0][..., 2] = False
    return [part & (np.arange(CHANNELS) != 3) for part in parts]


def counted(x, mask):
    return np.full(x.shape, True) if mask is None else spread(mask, x.shape)


def statistics(x, mask=None):
    """Mean, variance and count of each channel."""
    rows, kept = (array.reshape(-1, CHANNELS) for array in (np.asarray(x, "float64"), counted(x, mask)))
    seen = [values[k] for values, k in zip(rows.T, kept.T, strict=True)]
    mean = np.array([values.mean() if values.size else 0.0 for values in seen])
    variance = np.array([((values - values.mean()) ** 2).mean() if values.size else 0.0 for values in seen])
    return mean, variance, np.array([values.size for values in seen])


def batch_norm(x, mask=None):
    """gamma (x - mean) / sqrt(variance + epsilon) + beta, and beta at masked positions."""
    mean, variance, _ = statistics(x, mask)
    return GAMMA * np.where(counted(x, mask), (x - mean) / np.sqrt(variance + EPSILON), 0.0) + BETA


def gradients(x, cotangent, mask=None):
    """Those of sum(cotangent * batch_norm(x)) to x, gamma and beta."""
    x = np.asarray(x, "float64")
    h = (batch_norm(x, mask) - BETA) / GAMMA
    dx = differences(lambda x: (cotangent * batch_norm(x, mask)).sum(), x)
    return dx, (cotangent * h).sum((0, 1)), cotangent.sum((0, 1))


def followed(parts, mask_parts=None, momentum=MOMENTUM):
    """Moving mean and variance, from 0 and 1, after one step that saw `parts`: the mean of what each part gives."""
    each = [statistics(x, m) for x, m in zip(parts, mask_parts or [None] * len(parts), strict=True)]
    moving = []
    for start, k in ((0.0, 0), (1.0, 1)):
        stored = np.full(CHANNELS, start)
        for c in range(CHANNELS):
            updated = [momentum * start + (1 - momentum) * part[k][c] for part in each if part[2][c]]
            if updated:
                stored[c] = np.mean(updated)
        moving.append(stored)
    return moving
