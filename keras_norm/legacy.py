"""Keeps the argument `axis` in `.h5` files: Keras' loader drops None and lists of several axes."""

from typing import Any

from keras_norm._keras import in_legacy_h5_file

KEY = "axis_in_h5"


def kept_axis(axis: Any) -> dict[str, Any]:
    """The entries of a config for `axis`. A `.h5` file also has it under a name that the loader does not touch."""
    return {"axis": axis, KEY: axis} if in_legacy_h5_file() else {"axis": axis}


def with_kept_axis(config: dict[str, Any]) -> dict[str, Any]:
    """The config with `axis` as it was saved."""
    config = dict(config)
    return config | {"axis": config.pop(KEY)} if KEY in config else config
