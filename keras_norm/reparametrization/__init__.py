"""Wrappers that compute the kernel of a layer in each call."""

from keras_norm.reparametrization.base import KernelReparametrization as KernelReparametrization
from keras_norm.reparametrization.initialization import initialize_from_data as initialize_from_data
from keras_norm.reparametrization.spectral import SpectralNormalization as SpectralNormalization
from keras_norm.reparametrization.weight import WeightNormalization as WeightNormalization
