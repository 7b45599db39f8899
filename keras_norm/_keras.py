"""The private names of Keras that this package needs, each with its reason; checked on Keras 3.13 and 3.15."""

from keras.src.backend.common import global_state


def in_legacy_h5_file() -> bool:
    """Whether the config of a model is written to a `.h5` file, or read from one: no public name tells a layer."""
    return bool(global_state.get_global_attribute("use_legacy_config", False))
