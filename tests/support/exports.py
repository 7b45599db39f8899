"""What an exported model gives, run by the format's own runtime.

A model with one output gives an array, a model with a dict of outputs gives a dict.
"""

import warnings

import keras
import numpy as np


def saved_model(model, x, folder):
    import tensorflow as tf

    model.export(str(folder), format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(str(folder))  # has to live as long as its functions
    return keras.tree.map_structure(np.array, loaded.serve(x))


def litert(model, x, path):
    """The outputs, and the names of the operations in the file."""
    import tensorflow as tf

    model.export(str(path), format="litert", verbose=False)
    interpreter = tf.lite.Interpreter(str(path))
    operations = {op["op_name"] for op in interpreter._get_ops_details()}
    run = interpreter.get_signature_runner("serving_default")
    names = run.get_input_details()
    y = run(**(x if isinstance(x, dict) else dict.fromkeys(names, x)))
    return y if len(y) > 1 else next(iter(y.values())), operations


def onnx(model, x, path):
    import onnxruntime

    with warnings.catch_warnings():
        if keras.backend.backend() == "torch":  # Keras takes torch's former exporter, which warns of that and of sizes
            warnings.simplefilter("ignore")
        model.export(str(path), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    y = session.run(names, {session.get_inputs()[0].name: x})
    return dict(zip(names, y, strict=True)) if len(y) > 1 else y[0]


def torch_export(model, x, path):
    """The graph of `torch.export` of two samples, run on `x`."""
    import torch

    batch = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(model, (torch.as_tensor(x[:2]),), dynamic_shapes=(batch,), strict=False)
    return exported.module()(torch.as_tensor(x)).detach().numpy()


def torch_trace(model, x, path):
    """The graph of `torch.jit.trace` of two samples, run on `x`."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of every Python number that Keras makes of a size
        traced = torch.jit.trace(model, torch.as_tensor(x[:2]), check_trace=False)
    return traced(torch.as_tensor(x)).detach().numpy()


ON_TORCH = {"onnx": onnx, "torch.export": torch_export, "torch.jit.trace": torch_trace}
