"""The private names of Keras that this package uses, each with its reason; checked on 3.13 and 3.15."""

# While Keras infers shapes, made-up sizes stand for unknown ones and no other replica takes part: nothing may be summed
# over replicas. `keras.SymbolicScope` is public, but not the question whether it is open.
from keras.src.backend.common.symbolic_scope import in_symbolic_scope as in_symbolic_scope
