"""A call of a layer with other values in place of some of its weights, none of which is assigned."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_norm._keras import all_layers
from keras_norm.arguments import Tensor

Substitutes = Sequence[tuple[keras.Variable, Tensor]]
"""Variables, and the value that each is to have."""


def call_with(layer: keras.layers.Layer, substitutes: Substitutes, *args: Any, **kwargs: Any) -> tuple[Any, list]:
    """What `layer(*args, **kwargs)` returns, and the losses that it adds, while variables have other values.

    The substitutes live in a `keras.StatelessScope`, which is set up and cleared away so that nobody sees it: all
    other variables have the values that they have outside, also where outside is such a scope (as in JAX); what the
    layer assigns (dropout seeds, statistics, states of a stateful RNN) is assigned outside afterwards; losses that
    are not its own to hand over already (in JAX) are returned, for the caller to add.

    The substitutes are cast to the dtypes of their variables, and autocast where the layer reads them.
    """
    variables = [*layer.variables, *_untracked_states(layer)]
    values = {id(variable): variable.value for variable in variables}
    values |= {id(variable): value for variable, value in substitutes}
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
    """The states of stateful RNNs, which Keras does not list among a layer's variables."""
    stateful = [part for part in all_layers(layer) if isinstance(part, keras.layers.RNN) and part.stateful]
    return [state for part in stateful for state in keras.tree.flatten(part.states)]


def _losses_to_add(scope: keras.StatelessScope) -> list:
    """The losses collected in `scope`, or none if the scope around it has taken them over."""
    outer = scope.original_scope
    if outer is None:
        return scope.losses
    if outer.collect_losses:
        # Each is marked as its layer's already: added once more by another layer, it would count twice.
        for loss in scope.losses:
            outer.add_loss(loss)
    return []
