"""What the docstrings and the README show is what happens."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from backends import tensorflow_only

import keras_norm

ROOT = Path(__file__).parent.parent
MODULES = sorted(m.name for m in pkgutil.walk_packages(keras_norm.__path__, "keras_norm."))


@tensorflow_only
@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_give_what_they_show(name):
    module = importlib.import_module(name)
    names = {**vars(module), "np": np, "keras": keras, "kn": keras_norm}
    finder = doctest.DocTestFinder(recurse=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for example in finder.find(module, name, globs=names):
        runner.run(example)
    assert runner.failures == 0


@pytest.mark.parametrize("name", [n for n in vars(keras_norm) if n[0].isupper()])
def test_every_public_class_has_a_formula_an_example_and_a_source(name):
    doc = getattr(keras_norm, name).__doc__
    assert ">>> " in doc
    assert "Reference: " in doc
    assert "shape" in doc


@tensorflow_only
def test_the_python_blocks_of_the_readme_run():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
