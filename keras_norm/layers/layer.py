"""Layer Normalization: a set extends along the given axes, or over a whole sample."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_norm import arguments
from keras_norm._keras import in_legacy_h5_file
from keras_norm.functional import layer_norm
from keras_norm.layers.base import Normalization
from keras_norm.legacy import KEY
from keras_norm.tensors import Tensor


@keras.saving.register_keras_serializable("keras_norm")
class LayerNormalization(Normalization):
    r"""Standardizes over the given axes, independently for each index of the other axes.

        S_i = {k : k_a = i_a on every axis a that is not in `axis`}
        y_i = gamma (x_i - mean(S_i)) / sqrt(var(S_i) + epsilon) + beta

    with the variance divided by `|S_i|`. The shape of gamma and beta is that of the axes in `axis`, as in
    `keras.layers`. With `axis=None` and inputs of shape `(N, ..., C)`, this is the layer normalization of the Group
    Normalization paper: a set is a whole sample, `S_i = {k : k_N = i_N}`, and gamma and beta have the shape `(C,)`.
    Training and inference are the same.

    Args:
        axis: the axis or axes to average over, or None for the whole sample.
        epsilon, center, scale, ...: see `Normalization`.

    Input shape: any of rank >= 2; the sizes along `axis` must be known. Output shape: the same.

    Example:
        >>> layer = LayerNormalization(axis=[1, 2])
        >>> y = layer(np.ones((4, 8, 6, 3)))
        >>> tuple(layer.gamma.shape)
        (8, 6)

    Reference: Ba et al., Layer Normalization, 2016, https://arxiv.org/abs/1607.06450, eq. 3; with `axis=None`
        Wu & He, Group Normalization, ECCV 2018, https://arxiv.org/abs/1803.08494, eq. 5.
    """

    def _check_axis(self, axis: Any) -> int | Sequence[int] | None:
        return None if axis is None else arguments.integer_or_several(self._error_prefix, "axis", axis)

    def _listed_axes(self) -> list[int]:
        return arguments.listed_axes(-1 if self.axis is None else self.axis)

    def _affine_axes(self, rank: int) -> list[int]:
        return arguments.resolve_axes(self._error_prefix, self._listed_axes(), rank)

    def _normalize(self, x: Tensor, training: bool | None, mask: Tensor | None) -> Tensor:
        return layer_norm(x, self.gamma, self.beta, self.epsilon, axis=self.axis, mask=mask)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LayerNormalization":
        if in_legacy_h5_file() and not {"axis", KEY} & config.keys():
            raise ValueError(
                f"{cls.__name__}: a .h5 file must contain the axis. Received: name={config.get('name')!r} without axis "
                "(written by an earlier release, with axis=None or several axes: build the model and load_weights)."
            )
        return super().from_config(config)
