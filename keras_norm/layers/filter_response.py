"""Filter Response Normalization: the sets of Instance Normalization, with moments about zero."""

from typing import Any

import keras
from keras import initializers, ops

from keras_norm import arguments
from keras_norm.functional import filter_response_norm
from keras_norm.layers.base import Normalization
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class FilterResponseNormalization(Normalization):
    r"""Divides each channel of each sample by its root mean square.

    For inputs of shape `(N, ..., C)`, position i uses the set

        S_i = {k : k_N = i_N, k_C = i_C}
        y_i = gamma_c x_i / sqrt(mean(S_i^2) + epsilon) + beta_c

    with gamma and beta of shape `(C,)`. The mean is not subtracted, so outputs may be far from zero. The paper uses a
    `ThresholdedLinearUnit` after this layer instead of a ReLU for this reason. Training and inference are the same.

    With `learned_epsilon`, epsilon becomes `epsilon + |epsilon_c|`, where `epsilon_c` is a trained weight of shape
    `(C,)` that starts at 1e-4. The paper uses it for small sets: for a set of one position the output would otherwise
    be close to the sign of the input.

    Args:
        axis: the channel axis.
        epsilon: a positive number, added to the mean square.
        learned_epsilon: whether to add a trained epsilon per channel.
        center, scale, ...: see `Normalization`.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Example:
        >>> y = FilterResponseNormalization()(np.ones((4, 8, 8, 6)))
        >>> tuple(y.shape)
        (4, 8, 8, 6)

    Reference: Singh & Krishnan, Filter Response Normalization Layer, CVPR 2020,
        https://arxiv.org/abs/1911.09737, section 3.
    """

    def __init__(
        self, axis: int = -1, epsilon: float = 1e-6, learned_epsilon: bool = False, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(axis, epsilon, *args, **kwargs)
        self.learned_epsilon = arguments.boolean(self._error_prefix, "learned_epsilon", learned_epsilon)
        self.epsilon_c: Any = None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if self.learned_epsilon:
            sizes = self._channel_sizes(input_shape)
            self.epsilon_c = self._add_float32_weight("epsilon_c", sizes, initializers.Constant(1e-4))

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        epsilon = self.epsilon if self.epsilon_c is None else self.epsilon + ops.abs(self.epsilon_c)
        return filter_response_norm(x, self.gamma, self.beta, epsilon, axis=self.axis, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "learned_epsilon": self.learned_epsilon}
