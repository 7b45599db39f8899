"""What the docstrings and the README show is what happens."""

import doctest
import importlib
import inspect
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm.models.examination.findings import RULES
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
    assert re.search(r"\n\n(?: {4}\S.*\n)* {4}\S.* = ", doc), "no formula in a separate paragraph"
    assert re.search(r"^(Input shape|Shapes): ", doc, re.MULTILINE)
    assert re.search(r"^Example:\n {4}>>> ", doc, re.MULTILINE)
    assert re.search(r"^Reference: .*\d{4}.*https://", doc, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@tensorflow_only
@pytest.mark.parametrize("number", range(3))
def test_each_python_block_of_the_readme_runs_by_itself(number):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    exec(compile(blocks[number], "README.md", "exec"), {})


@pytest.mark.quick
def test_the_readme_is_short_and_its_commands_are_the_experiment_and_the_tests():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 150
    experiment, tests = re.findall(r"```bash\n(.*?)\n```", readme, re.DOTALL)
    assert experiment.endswith("tutorials/experiments/batch_size.py") and tests.endswith("pytest")


@pytest.mark.slow
@tensorflow_only
def test_the_differences_from_keras_are_those_that_are_measured():
    header, _, *rows = re.search(r"(\| what is measured .*?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL)[
        1
    ].splitlines()
    shown = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.differences"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    measured = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:] if line]
    assert len(shown) == len(measured) == 9
    for (what, theirs, ours), (name, theirs_now, ours_now) in zip(shown, measured, strict=True):
        figure, path = re.fullmatch(r"\[(.*)\]\((.*)\)", ours).groups()
        assert (ROOT / path).is_file()
        assert same(figure, ours_now), (what, name, ours_now)
        if f"`keras.layers` {keras.__version__} " in header:  # other versions may have other errors
            assert same(theirs, theirs_now), (what, name, theirs_now)


def same(shown, measured):
    """Equal as text, or rounding errors of the same order."""
    if shown == measured:
        return True
    return "e-" in shown and "e-" in measured and 0.1 < float(shown) / float(measured) < 10


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


FILLED = re.compile(r"```(python|bash)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
TWO_CPUS = """import subprocess, sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]\d+)?")


def printed_by(blocks, folder):
    """What each block of a page prints, all of them in one process."""
    parts = [TWO_CPUS]
    for kind, block, _ in blocks:
        if kind == "bash":
            command = block.replace("python ", f"{sys.executable} ", 1)
            block = f"print(subprocess.run({command!r}, shell=True, capture_output=True, text=True).stdout, end='')\n"
        parts.append(block)
    script = folder / "page.py"
    script.write_text("print('\\0', flush=True)\n".join(parts), encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\0\n")[1:]


def words(text):
    """Without numbers, and without what their width moves."""
    return re.sub(r"[-\s]+|\bto\b|/", " ", NUMBER.sub("", text)).split()


@pytest.mark.slow
@tensorflow_only
def test_the_troubleshooting_page_shows_what_its_code_prints(tmp_path):
    blocks = FILLED.findall((ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"))
    for (_, block, shown), printed in zip(blocks, printed_by(blocks, tmp_path), strict=True):
        assert words(printed) == words(shown), block
        in_table = False  # whose numbers have too many digits of noise
        for ours, theirs in zip(printed.splitlines(), shown.splitlines(), strict=True):
            in_table = ours.startswith("layer ") or (in_table and bool(ours))
            if not in_table:
                found, expected = ([float(number) for number in NUMBER.findall(line)] for line in (ours, theirs))
                # Trainings of some seconds differ between machines in the last bits, and then in more.
                assert found == pytest.approx(expected, rel=0.3, abs=0.1), block


@pytest.mark.quick
def test_the_troubleshooting_page_has_an_entry_for_each_finding():
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    entries = re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in entries] == [rule.__name__ for rule in RULES]
    for name, entry in entries:
        assert re.findall(r"^\*\*(\w+)\.\*\*", entry, re.MULTILINE) == ["Symptom", "Cause", "Cure", "Measured"], name
        assert f": {name} (" in entry, "no report that has it"
