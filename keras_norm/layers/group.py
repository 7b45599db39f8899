"""Group Normalization: a set is one group of channels of one sample."""

from typing import Any

import keras

from keras_norm import arguments
from keras_norm.functional import group_norm
from keras_norm.layers.base import Normalization
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class GroupNormalization(Normalization):
    r"""Standardizes each group of channels of each sample.

    For inputs of shape `(N, ..., C)` and `groups = G`, position i uses the set

        S_i = {k : k_N = i_N, floor(k_C G / C) = floor(i_C G / C)}
        y_i = gamma_c (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta_c

    with the variance divided by `|S_i|` and gamma, beta of shape `(C,)`. A group consists of neighboring channels.
    Training and inference are the same. `groups=1` is `LayerNormalization(axis=None)`, and `groups=-1` is
    `InstanceNormalization`.

    Args:
        groups: the number of groups, which must divide C. -1 means C, one group per channel.
        axis, epsilon, center, scale, ...: see `Normalization`.

    Input shape: `(N, ..., C)` of any rank >= 2; only C must be known. Output shape: the same.

    Raises:
        ValueError: when built, if `groups` does not divide C.

    Example:
        >>> y = GroupNormalization(groups=2)(np.ones((4, 8, 8, 6)))
        >>> tuple(y.shape)
        (4, 8, 8, 6)

    Reference: Wu & He, Group Normalization, ECCV 2018, https://arxiv.org/abs/1803.08494, eq. 7.
    """

    def __init__(self, groups: int = 32, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.groups = arguments.number_of_groups(self._error_prefix, groups)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        arguments.resolve_groups(self._error_prefix, self.groups, input_shape[self.axis], self.axis)

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        return group_norm(x, self.gamma, self.beta, self.groups, self.epsilon, axis=self.axis, mask=mask)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups}
