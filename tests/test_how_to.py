"""The how-to pages of docs/: their code prints what they show, and their tables are recounted."""

import os
import re
import subprocess
import sys

import pytest

from benchmarks import scaling
from support.backends import BACKEND, tensorflow_only
from support.pages import printed_by, programs_of, save_files_of
from support.processes import ROOT

PAGES = [
    "custom_loops.md",
    "distributed.md",
    "export.md",
    "faq.md",
    "fine_tuning.md",
    "jax.md",
    "mixed_precision.md",
    "models.md",
    "own_layer.md",
    "replacing.md",
    "scaling.md",
    "torch.md",
]
PROGRAMS = [
    pytest.param(
        page, program, id=f"{page}-{k}", marks=[pytest.mark.slow] if BACKEND == "tensorflow" else [pytest.mark.quick]
    )
    for page in PAGES
    for k, program in enumerate(programs_of(page))
    if program.backend == BACKEND
]


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_the_code_prints_what_the_page_shows(page, program, tmp_path):
    save_files_of(page, tmp_path)
    for code, shown, printed in zip(program.blocks, program.shown, printed_by(program, tmp_path), strict=True):
        if shown is not None:
            assert printed == shown, code


@pytest.mark.quick
def test_every_backend_has_programs():
    backends = {program.backend for page in PAGES for program in programs_of(page)}
    assert backends == {"tensorflow", "jax", "torch"}
    assert PROGRAMS


def text_of(page):
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


# Your own layer


@pytest.mark.slow
@pytest.mark.parametrize("is_right", [True, False], ids=["", "wrong set"])
def test_the_contract_accepts_the_layer_of_the_page_and_refuses_it_with_another_set(tmp_path, is_right):
    save_files_of("own_layer.md", tmp_path)
    if not is_right:
        layer = (tmp_path / "head_normalization.py").read_text()
        assert "axes_except(x, 0, 1, axis)" in layer
        layer = layer.replace("axes_except(x, 0, 1, axis)", "axes_except(x, 0, axis)")  # over time too
        (tmp_path / "head_normalization.py").write_text(layer)
    (command,) = re.findall(r"```bash\nPYTHONPATH=tests:FOLDER pytest (.*)\n```", text_of("own_layer.md"))
    arguments = [word.strip('"') for word in command.split()]
    arguments += ["-p", "no:cacheprovider", "-n0", "-v", *([] if is_right else ["-x", "-m", "quick"])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(tmp_path)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if is_right else 1), done.stdout[-5000:]
    assert re.search(r"\d\d+ passed" if is_right else "Mismatched elements", done.stdout)


# Scaling


def tables_of(text):
    return re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)


@pytest.mark.slow
@tensorflow_only
@pytest.mark.parametrize(("replicas", "flags", "columns"), [(2, [], 4), (4, ["--layers-only"], 3)])
def test_the_collectives_of_the_page_are_recounted(replicas, flags, columns):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--replicas", str(replicas), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    shown = tables_of(text_of("scaling.md").split(f"--replicas {replicas}`:\n\n")[1])[0]
    of_the_page = ["|".join(line.split("|")[: columns + 1]) + "|" for line in shown.splitlines()]
    assert tables_of(done.stdout)[0].splitlines() == of_the_page


@pytest.mark.quick
def test_a_network_has_the_collectives_of_its_layers():
    for table in tables_of(text_of("scaling.md"))[:2]:
        for row in table.splitlines()[2:]:
            *_, layer, network = (int(cell.split(",")[0]) for cell in row.split("|")[3:-1])
            assert network == scaling.LAYERS * layer


@pytest.mark.quick
def test_the_model_uses_what_was_counted():
    counted = {}
    for table in tables_of(text_of("scaling.md"))[:2]:
        for row in table.splitlines()[2:]:
            name, *cells = (cell.strip().replace("`", "") for cell in row.strip("|").split("|"))
            counted[name] = [scaling.Count(*map(int, re.findall(r"\d+", cell.replace(",", "", 9)))) for cell in cells]
    for name in ("synchronized=True", "synchronized=False", "keras.layers, synchronized=True"):
        assert scaling.MODEL[name](64) == counted[name][2]
    assert scaling.grouped(4, 2) == counted["synchronized=2"][2]
    assert scaling.MODEL["synchronized=8"](1024) == scaling.grouped(1024, 8)


@pytest.mark.quick
def test_the_tables_of_the_model_are_those_of_the_page():
    page = tables_of(text_of("scaling.md"))
    assert scaling.model_table() + "\n" in page
    assert scaling.groups_table() + "\n" in page


@pytest.mark.quick
def test_an_all_reduce_takes_latency_for_each_step_and_bandwidth_for_each_byte():
    ring, tree = (scaling.all_reduce(algorithm, 8, 0) for algorithm in ("ring", "tree"))
    assert ring == pytest.approx(3.6e-6 + 14 * 0.47e-6)
    assert tree == pytest.approx(4.4e-6 + 14 * 0.52e-6)
    assert scaling.all_reduce("tree", 1024, 0) == pytest.approx(4.4e-6 + 2 * (7 * 0.52e-6 + 7 * 5e-6))
    assert scaling.all_reduce("ring", 8, 235e9) - ring == pytest.approx(2 * 7 / 8)
    assert scaling.all_reduce("ring", 16, 25e9) - scaling.all_reduce("ring", 16, 0) == pytest.approx(2 * 15 / 16)


@pytest.mark.quick
@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_the_noise_of_a_batch_mean_is_that_of_the_formula(correlation):
    import numpy as np

    rng, samples, positions = np.random.default_rng(0), 8, 16
    shared = rng.normal(size=(20000, samples, 1)) * correlation**0.5
    x = shared + rng.normal(size=(20000, samples, positions)) * (1 - correlation) ** 0.5
    expected = ((correlation + (1 - correlation) / positions) / samples) ** 0.5
    assert x.mean((1, 2)).std() == pytest.approx(expected, rel=0.02)
    assert expected <= scaling.noise(samples) + 1e-12


@pytest.mark.quick
def test_a_useful_group_is_the_smallest_that_reaches_the_tolerance():
    for samples in (2, 3, 8, 32):
        group = scaling.useful_group(samples, 0.25)
        assert scaling.noise(samples * group) <= 0.25
        assert group == 1 or scaling.noise(samples * (group - 1)) > 0.25
