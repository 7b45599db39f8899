"""The argument `axis` in `.h5` files, whose loader drops an axis that is neither a number nor a list of one."""

from typing import Any

from keras_norm._keras import in_legacy_h5_file

KEY = "axis_in_h5"


def kept_axis(axis: Any) -> dict[str, Any]:
    """What a config says of `axis`: twice in a `.h5` file, the second time by a name that the loader keeps."""
    return {"axis": axis, KEY: axis} if in_legacy_h5_file() else {"axis": axis}


def with_kept_axis(config: dict[str, Any]) -> dict[str, Any]:
    """The config as it was written."""
    config = dict(config)
    return config | {"axis": config.pop(KEY)} if KEY in config else config
