"""Spectral Normalization: a kernel divided by its largest singular value."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_norm import arguments
from keras_norm.reparametrization.base import KernelReparametrization
from keras_norm.tensors import Tensor

_INITIAL_ITERATIONS = 30


@keras.saving.register_keras_serializable("keras_norm")
class SpectralNormalization(KernelReparametrization):
    r"""Divides a layer's kernel by its largest singular value.

    For a kernel seen as a matrix W of shape `(rest, units)`, power iteration turns unit vectors v of shape `(rest,)`
    and u of shape `(units,)` towards the first singular vectors,

        v <- W u / ||W u||        u <- W^T v / ||W^T v||
        sigma = v^T W u           effective kernel: W / sigma

    Gradients flow through sigma, not through u and v. Each call resumes power iteration from the stored u; only
    training calls update it, unless `trainable` is False. On the same weights inference and training give the same
    output. Building the layer runs the first 30 iterations.

    Args:
        layer: see `KernelReparametrization`.
        power_iterations: number of iterations per call.
        weight_name, axis: see `KernelReparametrization`.

    Shapes: inputs and outputs are those of the wrapped layer.

    Example:
        >>> layer = SpectralNormalization(keras.layers.Dense(3))
        >>> y = layer(np.ones((2, 4)))
        >>> round(float(np.linalg.svd(layer.fold().kernel, compute_uv=False)[0]), 2)
        1.0

    Reference: Miyato et al., Spectral Normalization, ICLR 2018, https://arxiv.org/abs/1802.05957, algorithm 1.
    """

    _vector_name = "u"
    _vector_is_trained = False

    def __init__(
        self,
        layer: keras.layers.Layer,
        power_iterations: int = 1,
        weight_name: str | Sequence[str] | None = None,
        axis: int | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, weight_name, axis, **kwargs)
        self.power_iterations = arguments.positive_integer(self._error_prefix, "power_iterations", power_iterations)

    @property
    def u(self) -> list[keras.Variable]:
        """The vectors u, one per re-parametrized weight."""
        return list(self._vectors)

    def _initial_vector(self, matrix: Tensor) -> Tensor:
        # A fixed seed: replicas agree, and wrapping a layer does not advance the global seed.
        start = keras.random.normal((matrix.shape[1],), dtype=matrix.dtype, seed=0)
        return _power_iteration(matrix, _l2_normalize(start, start), _INITIAL_ITERATIONS)[0]

    def _effective_kernel(self, matrix: Tensor, vector: keras.Variable, training: bool | None) -> Tensor:
        u, v = _power_iteration(ops.stop_gradient(matrix), ops.convert_to_tensor(vector), self.power_iterations)
        if training and self.trainable:
            vector.assign(u)
        sigma = ops.sum(v * _matvec(matrix, u))
        # A kernel of zeros stays 0 and can be trained.
        return matrix / ops.where(sigma > 0, sigma, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "power_iterations": self.power_iterations}


def _power_iteration(matrix: Tensor, u: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """u and v after some steps of power iteration."""
    for _ in range(steps):
        product = _matvec(matrix, u)
        v = _l2_normalize(product, otherwise=product)
        u = _l2_normalize(_matvec(ops.transpose(matrix), v), otherwise=u)
    return u, v


def _matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector in the dtype of the inputs. `ops.matmul` would cast float64 to float32 on torch."""
    return (matrix @ vector[:, None])[:, 0]


def _l2_normalize(x: Tensor, otherwise: Tensor) -> Tensor:
    """x / ||x||, or `otherwise` if x is 0."""
    square = ops.sum(ops.square(x))
    return ops.where(square > 0, x * ops.rsqrt(ops.where(square > 0, square, 1.0)), otherwise)
