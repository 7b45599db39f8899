"""The private names of Keras that this package uses, each with its reason; checked on 3.13 and 3.15."""

# Sizes that are not known stand for others while a model is built, and replicas do not take turns: nothing tells that
# in public. `keras.SymbolicScope` is public, what asks for it is not.
from keras.src.backend.common.symbolic_scope import in_symbolic_scope as in_symbolic_scope
