"""Tools for whole models: examine, replace, synchronize, freeze, recalibrate and fold normalizations."""

from keras_norm.models.check_up import examine as examine
from keras_norm.models.fold import fold_batch_normalization as fold_batch_normalization
from keras_norm.models.fold_weights import fold_weights as fold_weights
from keras_norm.models.freeze import freeze_batch_normalization as freeze_batch_normalization
from keras_norm.models.freeze import unfreeze_batch_normalization as unfreeze_batch_normalization
from keras_norm.models.recalibrate import recalibrate_batch_normalization as recalibrate_batch_normalization
from keras_norm.models.replace import replace_normalization as replace_normalization
from keras_norm.models.synchronize import synchronize_batch_normalization as synchronize_batch_normalization
