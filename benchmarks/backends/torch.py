"""torch: eager or compiled, with the same memory layout for Keras' layers and torch.nn.functional."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.backends import EPSILON, GROUPS, MOMENTUM, Step

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"


def devices() -> list[str]:
    """The names of the accelerators."""
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if GPU else []


def tensor(array: np.ndarray, dtype: str) -> torch.Tensor:
    """The array on the device."""
    return torch.tensor(array, device=DEVICE).to(getattr(torch, dtype))


def wait(outputs: Any) -> None:
    """Waits for the outputs."""
    if GPU:
        torch.cuda.synchronize()


def peak_memory(step: Step) -> int | None:
    """The peak memory of a step in bytes, beyond the memory in use before; None on a CPU."""
    if not GPU:
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def steps(layer: Any, x: torch.Tensor, dy: torch.Tensor, training: dict[str, bool], mode: str) -> tuple[Step, Step]:
    """The steps of a Keras layer: forward, and forward + backward."""
    return _steps(lambda x: layer(x, **training), [w.value for w in layer.trainable_weights], x, dy, mode)


def native(layer: str, axis: int, x: torch.Tensor, dy: torch.Tensor, mode: str) -> dict[str, tuple[Step, Step]]:
    """The same steps of torch's function. Channels that are last are moved to axis 1 by a view."""
    channels = x.shape[axis]
    gamma, beta = (start(channels, device=DEVICE, requires_grad=True) for start in (torch.ones, torch.zeros))
    mean, variance = (start(channels, device=DEVICE) for start in (torch.zeros, torch.ones))
    norm = {
        "batch": lambda t: F.batch_norm(t, mean, variance, gamma, beta, True, 1 - MOMENTUM, EPSILON),
        "group": lambda t: F.group_norm(t, GROUPS, gamma.to(t.dtype), beta.to(t.dtype), EPSILON),
        "instance": lambda t: F.instance_norm(t, weight=gamma.to(t.dtype), bias=beta.to(t.dtype), eps=EPSILON),
        "layer": lambda t: F.layer_norm(t, [channels], gamma.to(t.dtype), beta.to(t.dtype), EPSILON),
    }[layer]

    def on_view(x: torch.Tensor) -> torch.Tensor:
        return norm(x.movedim(-1, 1)).movedim(1, -1)

    forward = norm if axis == 1 or layer == "layer" else on_view
    return {"torch.nn.functional": _steps(forward, [gamma, beta], x, dy, mode)}


def _steps(
    forward: Callable, weights: list[torch.Tensor], x: torch.Tensor, dy: torch.Tensor, mode: str
) -> tuple[Step, Step]:
    x = x.detach().requires_grad_()
    if mode == "compile":
        forward = torch.compile(forward, dynamic=False)

    def alone() -> list[torch.Tensor]:
        with torch.no_grad():
            return [forward(x)]

    def both() -> list[torch.Tensor]:
        y = forward(x)
        return [y, *torch.autograd.grad(y, [x, *weights], dy)]

    return alone, both
