"""What the docstrings and the README show is what happens."""

import doctest
import importlib
import inspect
import pkgutil
import re
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_norm
from support.backends import tensorflow_only

ROOT = Path(__file__).parent.parent
# The kernels of other backends need these.
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(keras_norm.__path__, "keras_norm.")
    if m.name not in {"keras_norm.kernels.jax", "keras_norm.kernels.torch"}
)


@pytest.mark.quick
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


@pytest.mark.quick
@pytest.mark.parametrize("name", [n for n in vars(keras_norm) if n[0].isupper()])
def test_every_public_class_has_a_formula_shapes_an_example_and_a_source(name):
    doc = inspect.getdoc(getattr(keras_norm, name))  # without the indentation that Python before 3.13 keeps
    assert re.search(r"\n\n(?: {4}\S.*\n)* {4}\S.* = ", doc), "no formula in a paragraph of its own"
    assert re.search(r"^(Input shape|Shapes): ", doc, re.MULTILINE)
    assert re.search(r"^Example:\n {4}>>> ", doc, re.MULTILINE)
    assert re.search(r"^Reference: .*\d{4}.*https://", doc, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@tensorflow_only
def test_the_python_blocks_of_the_readme_run():
    names = {}
    with pytest.warns(UserWarning, match="groups=32 do not divide the channels of all layers"):  # MobileNetV2's 24
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
            exec(compile(block, "README.md", "exec"), names)


@pytest.mark.quick
def test_the_long_description_has_absolute_links_only():
    absolute = runpy.run_path(str(ROOT / "setup.py"))["absolute"]
    readme = absolute((ROOT / "README.md").read_text(), "https://example.org/repository")
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", readme)
    assert [link for _, link in links if not link.startswith("https://")] == []
    assert ("", "https://example.org/repository/blob/main/docs/contract.md") in links
    assert ("!", "https://example.org/repository/raw/main/docs/sets.png") in links


@pytest.mark.quick
def test_the_citation_names_this_version():
    assert f"\nversion: {keras_norm.__version__}\n" in (ROOT / "CITATION.cff").read_text()
