"""Layer-normalized recurrent cells for `keras.layers.RNN`, one per file."""

from keras_norm.cells.gru import LayerNormGRUCell as LayerNormGRUCell
from keras_norm.cells.lstm import LayerNormLSTMCell as LayerNormLSTMCell
from keras_norm.cells.simple_rnn import LayerNormSimpleRNNCell as LayerNormSimpleRNNCell
