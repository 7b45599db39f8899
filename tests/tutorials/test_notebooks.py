"""Every notebook: it runs from the installed package alone, and what is stored is what its script gives."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import keras_norm
from support.backends import tensorflow_only

pytestmark = tensorflow_only

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "tutorials"
NOTEBOOKS = sorted((TUTORIALS / "notebooks").glob("*.ipynb"))
REPOSITORY = re.search(r"^url = (\S+)", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
TROUBLE = re.compile(r"\w*Warning\b|WARNING|Traceback")
LINK = re.compile(r"\]\(([^)\s]+)|\bsrc=\"([^\"]+)")
# A decimal number or a percentage: what a measurement looks like.
FIGURE = re.compile(r"\d+\.\d+|\d+(?=\s?%)")


def of_kind(kind, notebook):
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def outputs(notebook):
    return [output for cell in of_kind("code", notebook) for output in cell.outputs]


def printed(notebook):
    """All outputs as text, without pictures."""
    texts = [str({**output, "data": {**output.get("data", {}), "image/png": ""}}) for output in outputs(notebook)]
    return "\n".join(texts)


def cells_of(script):
    """The type and source of each cell of a script in the percent format."""
    for part in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
        head, source = part.split("\n", 1)
        kind = "markdown" if head.strip() == "[markdown]" else "code"
        yield kind, (re.sub(r"^# ?", "", source, flags=re.MULTILINE) if kind == "markdown" else source).strip("\n")


def broken_links(text, folder):
    """Links to files that are not there, from a page in `folder`; those to the repository are to files of this one."""
    own = re.compile(rf"{REPOSITORY}/(?:blob|tree)/main/")
    links = ["".join(groups).split("#")[0] for groups in LINK.findall(text)]
    places = [ROOT / own.sub("", link) if own.match(link) else folder / link for link in links if link]
    return [str(place) for place in places if ":" not in str(place) and not place.exists()]


@pytest.mark.slow
@pytest.mark.notebook
@each_notebook
def test_it_runs_from_the_installed_package(path, data_dir, tmp_path, monkeypatch):
    for name, value in {"FAST": "1", "TFDS_DATA_DIR": str(data_dir), "CUDA_VISIBLE_DEVICES": "-1"}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("import keras_norm\nprint(keras_norm.__file__)"))
    # TensorFlow's libraries write to the process's own stderr what no setting turns off.
    quiet = ["--IPKernelApp.capture_fd_output=False"]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", extra_arguments=quiet, resources=resources).execute()
    assert notebook.cells[-1].outputs[0].text.strip() == keras_norm.__file__
    assert TROUBLE.findall(printed(notebook)) == []


@each_notebook
def test_its_cells_are_those_of_its_script(path):
    stored = [(cell.cell_type, cell.source.strip("\n")) for cell in nbformat.read(path, 4).cells]
    assert stored == list(cells_of(path.with_suffix(".py").read_text()))


@each_notebook
def test_its_stored_outputs_are_of_one_run_without_errors(path):
    notebook = nbformat.read(path, 4)
    counts = [cell.execution_count for cell in of_kind("code", notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert [output for output in outputs(notebook) if output.output_type == "error"] == []
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
    assert TROUBLE.findall(printed(notebook)) == []
    assert re.findall(r"/(?:home|root|tmp|work)/\S*", printed(notebook)) == []


@each_notebook
def test_its_prose_has_figures_that_it_measured_or_whose_source_is_linked(path):
    notebook = nbformat.read(path, 4)
    prose = [cell.source for cell in of_kind("markdown", notebook) if "https://" not in cell.source]
    figures = {figure for source in prose for figure in FIGURE.findall(re.sub(r"`[^`]*`", "", source))}
    assert figures - set(re.findall(r"\d+\.\d+|\d+", printed(notebook))) == set()


@each_notebook
def test_its_head_is_that_of_all(path):
    cells = nbformat.read(path, 4).cells
    target = f"{REPOSITORY.replace('https://github.com', 'https://colab.research.google.com/github')}/blob/main"
    assert f"]({target}/{path.relative_to(ROOT)})" in cells[0].source
    assert re.search(
        r"^\*Runtime: about \S+ minutes? on two CPU cores\. Data: [^*]*Accelerator: [^*]*\*$", cells[0].source, re.M
    )
    assert cells[1].source == nbformat.read(NOTEBOOKS[0], 4).cells[1].source
    assert f'REPOSITORY = "{REPOSITORY}"' in cells[1].source


@each_notebook
def test_it_teaches_no_tricks(path):
    source = path.read_text(encoding="utf-8")
    assert [trick for trick in ("optimizer.variables", "Markdown(", "../setup.cfg") if trick in source] == []


@each_notebook
def test_it_ends_with_what_to_remember_and_exercises(path):
    assert re.findall(r"^## (What to remember|Exercises)$", nbformat.read(path, 4).cells[-1].source, re.M) == [
        "What to remember",
        "Exercises",
    ]


@each_notebook
def test_its_links_lead_somewhere(path):
    text = "\n".join(cell.source for cell in of_kind("markdown", nbformat.read(path, 4)))
    assert broken_links(text, path.parent) == []


def test_the_links_of_the_readme_lead_somewhere():
    assert broken_links((TUTORIALS / "README.md").read_text(), TUTORIALS) == []


def test_the_readme_lists_every_notebook():
    listed = re.findall(r"\]\(notebooks/(\w+)\.ipynb\)", (TUTORIALS / "README.md").read_text())
    assert listed == [path.stem for path in NOTEBOOKS]
    assert len(listed) == 13


def test_the_readme_lists_every_experiment():
    listed = re.findall(r"\]\(experiments/(\w+)\.py\)", (TUTORIALS / "README.md").read_text())
    assert sorted(listed) == sorted(path.stem for path in (TUTORIALS / "experiments").glob("*.py"))
