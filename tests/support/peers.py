"""The layers of other libraries on docs/migration.md, and outputs of those that do not install beside Keras 3.

`python tests/support/peers.py "Keras 2" "TensorFlow Addons"` records these, with tensorflow==2.15.1 and
tensorflow-addons==0.23.0 on Python 3.11; `python tests/support/peers.py timm` with timm==1.0.31. Neither imports
keras_norm. A pair whose old half changes on the page must be recorded anew.
"""

import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
ROUNDS = 60
"""Calls in training after which power iteration has converged."""


@dataclass(frozen=True)
class Pair:
    """The code of one layer, before and after, and what its section runs first."""

    setup: str
    before: str
    after: str

    @property
    def name(self):
        return re.search(r"^old = (.*)$", self.before, re.MULTILINE)[1]


def section(title):
    """The text of the page from one heading of the second level to the next."""
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


def pairs_of(title, label):
    """All pairs of a section, whose halves start with `# label` and with `# keras_norm`."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL))
    setup, *parts = re.split(rf"^# {re.escape(label)}\n", code, flags=re.MULTILINE)
    return [Pair(setup, *part.split("# keras_norm\n")) for part in parts]


def run(code, names):
    exec(compile(code, "migration.md", "exec"), names)


def inputs(pair, x):
    """`x`, or the part of it of the rank that the layer takes."""
    if "Sequential" in pair.before or "Linear" in pair.before:
        return x[:, 0, 0]
    return x[:, :, 0] if "RNN(" in pair.before else x


def file_of(label):
    return Path(__file__).resolve().with_name(f"peers_{label.lower().replace(' ', '_')}.json")


def read(label):
    """What was recorded: inputs, and the numbers of each pair by its old half."""
    return json.loads(file_of(label).read_text())


def _encoded(numbers):
    """Arrays, and lists and dictionaries of them, as JSON can hold them."""
    if isinstance(numbers, dict):
        return {name: _encoded(value) for name, value in numbers.items()}
    if isinstance(numbers, list):
        return [_encoded(value) for value in numbers]
    return {"shape": list(np.shape(numbers)), "values": [float(f"{number:.7g}") for number in np.ravel(numbers)]}


def decoded(recorded):
    """The inverse of `_encoded`."""
    if isinstance(recorded, list):
        return [decoded(value) for value in recorded]
    if set(recorded) == {"shape", "values"}:
        return np.reshape(np.array(recorded["values"], "float32"), recorded["shape"])
    return {name: decoded(value) for name, value in recorded.items()}


def random_like(value, random):
    return random.uniform(0.5, 1.5, np.shape(value)) if np.asarray(value).dtype.kind == "f" else value


def _record_keras_2(old, x, random):
    """Weights, the output of inference, and after a call in training its output and the weights."""
    takes_training = "training" in type(old).call.__code__.co_varnames
    training = {"training": True} if takes_training else {}
    old(x)  # builds, and initializes g from the kernel
    weights = [random_like(value, random) for value in old.get_weights()]
    if type(old).__name__ == "TLU":  # outputs agree where all positions have one threshold
        weights = [np.broadcast_to(value[:1, :1], value.shape) for value in weights]
    old.set_weights(weights)
    if "SpectralNormalization" in type(old).__name__:
        for _ in range(ROUNDS):
            old(x, training=True)
    numbers = {"weights": old.get_weights(), "inference": old(x).numpy()}
    return {**numbers, "training": old(x, **training).numpy(), "weights after": old.get_weights()}


def _record_timm(old, x, random):
    """The same of a module, with channels last; weights by their names."""
    import torch

    def call():
        with torch.no_grad():
            return np.moveaxis(old(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy(), 1, -1)

    def state():
        return {name: value.numpy().copy() for name, value in old.state_dict().items()}

    old.load_state_dict({name: torch.tensor(random_like(value, random)) for name, value in state().items()})
    numbers = {"weights": state(), "inference": (old.eval(), call())[1]}
    return {**numbers, "training": (old.train(), call())[1], "weights after": state()}


def record(label):
    random = np.random.default_rng(0)
    x = random.normal(2.0, 3.0, (4, 3, 2, 8)).astype("float32")
    pairs = pairs_of(f"From {label}", label)
    names, found = {}, {}
    for pair in pairs:
        run(pair.before, names)
        recorder = _record_timm if label == "timm" else _record_keras_2
        found[pair.before] = _encoded(recorder(names["old"], inputs(pair, x), random))
    file_of(label).write_text(json.dumps({"x": _encoded(x), "pairs": found}) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for given in sys.argv[1:]:
            record(given)
