"""Calls a layer with other values of its variables, without assigning them."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_norm.tensors import Tensor
from keras_norm.walk import all_layers


def functional_call(
    layer: keras.layers.Layer, replacements: Sequence[tuple[keras.Variable, Tensor]], *args: Any, **kwargs: Any
) -> tuple[Any, list]:
    """Returns `layer(*args, **kwargs)` and its losses, computed with replaced values of some variables.

    Works like `torch.func.functional_call`. The replacements live in a `keras.StatelessScope`, whose other effects are
    undone: other variables keep their values, also inside an outer scope (as on JAX); variables that the layer assigns
    (dropout seeds, statistics, states of a stateful RNN) are assigned outside too; losses that Keras does not collect
    (as on JAX) are returned, for the caller to add.

    Replacements are cast to the dtypes of their variables, and autocast where the layer reads them.
    """
    variables = [*layer.variables, *_untracked_states(layer)]
    values = {id(variable): variable.value for variable in variables}
    values |= {id(variable): value for variable, value in replacements}
    with keras.StatelessScope(collect_losses=True) as scope:
        for variable in variables:
            variable.assign(values[id(variable)])
        before = [scope.get_current_value(variable) for variable in variables]
        outputs = layer(*args, **kwargs)
        after = [scope.get_current_value(variable) for variable in variables]
    for variable, old, new in zip(variables, before, after, strict=True):
        if new is not old:
            variable.assign(new)
    return outputs, _losses_to_add(scope)


def _untracked_states(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The states of stateful RNNs, which are not in `layer.variables`."""
    rnns = [inner for inner in all_layers(layer) if isinstance(inner, keras.layers.RNN) and inner.stateful]
    return [state for rnn in rnns for state in keras.tree.flatten(rnn.states)]


def _losses_to_add(scope: keras.StatelessScope) -> list:
    """The losses collected in `scope`, or none if they are passed on to the outer scope."""
    outer = scope.original_scope
    if outer is None:
        return scope.losses
    if outer.collect_losses:
        # Each loss belongs to its layer already. If the caller added it again, it would count twice.
        for loss in scope.losses:
            outer.add_loss(loss)
    return []
