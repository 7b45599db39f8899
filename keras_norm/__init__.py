"""Normalization layers for Keras 3 and TensorFlow: one formula, many sets."""

from keras_norm import callbacks as callbacks
from keras_norm import compilation as compilation
from keras_norm import distribute as distribute
from keras_norm import functional as functional
from keras_norm import models as models
from keras_norm import schedules as schedules
from keras_norm.cells import LayerNormGRUCell as LayerNormGRUCell
from keras_norm.cells import LayerNormLSTMCell as LayerNormLSTMCell
from keras_norm.cells import LayerNormSimpleRNNCell as LayerNormSimpleRNNCell
from keras_norm.layers import AdaptiveInstanceNormalization as AdaptiveInstanceNormalization
from keras_norm.layers import BatchInstanceNormalization as BatchInstanceNormalization
from keras_norm.layers import BatchNormalization as BatchNormalization
from keras_norm.layers import BatchRenormalization as BatchRenormalization
from keras_norm.layers import ConditionalNormalization as ConditionalNormalization
from keras_norm.layers import DynamicTanh as DynamicTanh
from keras_norm.layers import FilterResponseNormalization as FilterResponseNormalization
from keras_norm.layers import FrozenBatchNormalization as FrozenBatchNormalization
from keras_norm.layers import GhostBatchNormalization as GhostBatchNormalization
from keras_norm.layers import GlobalResponseNormalization as GlobalResponseNormalization
from keras_norm.layers import GroupNormalization as GroupNormalization
from keras_norm.layers import InstanceNormalization as InstanceNormalization
from keras_norm.layers import LayerNormalization as LayerNormalization
from keras_norm.layers import MeanOnlyBatchNormalization as MeanOnlyBatchNormalization
from keras_norm.layers import RMSNormalization as RMSNormalization
from keras_norm.layers import SwitchableNormalization as SwitchableNormalization
from keras_norm.layers import ThresholdedLinearUnit as ThresholdedLinearUnit
from keras_norm.reparametrization import ScaledWeightStandardization as ScaledWeightStandardization
from keras_norm.reparametrization import SpectralNormalization as SpectralNormalization
from keras_norm.reparametrization import WeightNormalization as WeightNormalization
from keras_norm.reparametrization import WeightStandardization as WeightStandardization
from keras_norm.reparametrization import initialize_from_data as initialize_from_data

__version__ = "0.2.0"
