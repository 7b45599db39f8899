"""The layers, a file each: thin shells over `keras_norm.functional`."""

from keras_norm.layers.batch import BatchNormalization as BatchNormalization
from keras_norm.layers.batch_instance import BatchInstanceNormalization as BatchInstanceNormalization
from keras_norm.layers.batch_renorm import BatchRenormalization as BatchRenormalization
from keras_norm.layers.frozen import FrozenBatchNormalization as FrozenBatchNormalization
from keras_norm.layers.group import GroupNormalization as GroupNormalization
from keras_norm.layers.instance import InstanceNormalization as InstanceNormalization
from keras_norm.layers.layer import LayerNormalization as LayerNormalization
from keras_norm.layers.mean_only import MeanOnlyBatchNormalization as MeanOnlyBatchNormalization
