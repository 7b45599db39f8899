"""The site builds, lacks nothing that is public, its links lead somewhere, and its figures are those of the rows."""

import ast
import csv
import functools
import html
import importlib.util
import inspect
import json
import os
import posixpath
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from statistics import geometric_mean
from urllib.parse import quote, unquote, urlsplit

import pytest

import keras_norm
from keras_norm import callbacks, distribute, functional, models, schedules
from support.backends import tensorflow_only
from support.browser import CHROMIUM, Browser, served

ROOT = Path(__file__).parent.parent
WITHOUT_MKDOCS = any(importlib.util.find_spec(name) is None for name in ("mkdocs", "mkdocstrings", "latex2mathml"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("site"),
    tensorflow_only,  # a page is the same on every backend
    pytest.mark.skipif(WITHOUT_MKDOCS, reason="mkdocs is not installed: pip install '.[docs]'"),
]


class Page(HTMLParser):
    """What a page links to, what it shows and loads, and what of it can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.sources, self.anchors, self.alternatives = [], [], {""}, {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if "href" in attributes:
            (self.links if tag == "a" else self.sources).append(attributes["href"])
        if "src" in attributes:
            self.sources.append(attributes["src"])
        if tag == "img":
            self.alternatives[attributes["src"]] = attributes.get("alt", "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet, which would hide the warnings from --strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    # 404.html is shown at any address, so its links begin at the root of a server.
    paths = [path for path in site.rglob("*.html") if path.name != "404.html"]
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in paths}


def defined_in(module):
    """The public classes and functions that a module defines and does not import from elsewhere."""
    return [
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if name[0] != "_" and callable(value) and value.__module__.startswith(module.__name__)
    ]


def public_names():
    names = [f"keras_norm.{name}" for name, value in vars(keras_norm).items() if name[0] != "_" and callable(value)]
    for module in (callbacks, distribute, functional, models, schedules):
        names += defined_in(module)
    return [*names, "keras_norm.compilation.set_mode", "keras_norm.compilation.mode"]


def broken(pages, site):
    """The links between files of the site that lead nowhere, with the pages that they are on."""
    for name, page in pages.items():
        for link in page.links + page.sources:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = (
                posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
            )
            if not (site / path).is_file() or (path in pages and unquote(parts.fragment) not in pages[path].anchors):
                yield f"{name}: {link}"


def test_the_api_pages_have_every_public_name(pages):
    anchors = set().union(*(page.anchors for name, page in pages.items() if name.startswith("api/")))
    assert [name for name in public_names() if name not in anchors] == []


def test_the_api_pages_have_the_full_signatures(site):
    texts = [path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html")]
    for name in public_names():
        (entry,) = [text.partition(f'id="{name}"')[2] for text in texts if f'id="{name}"' in text]
        shown = re.search('class="doc-signature highlight">(.*?)</pre>', re.split(r"<h\d id=", entry)[0], re.DOTALL)
        # A class without a constructor shows none: `keras.Model` names no arguments.
        text = html.unescape(re.sub("<.*?>", "", shown[1])).strip() if shown else "f(*args, **kwargs)"
        signature = ast.parse(f"def {text}: pass").body[0].args
        value = functools.reduce(getattr, name.split(".")[1:], keras_norm)
        expected = [parameter for parameter in inspect.signature(value).parameters if parameter != "self"]
        parts = [*signature.args, signature.vararg, *signature.kwonlyargs, signature.kwarg]
        assert [part.arg for part in parts if part] == expected, name


def test_every_link_inside_the_site_leads_somewhere(pages, site):
    assert list(broken(pages, site)) == []


def test_the_site_loads_nothing_from_another_host(pages, site):
    loaded = [f"{name}: {source}" for name, page in pages.items() for source in page.sources if urlsplit(source).netloc]
    assert loaded == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\(\W?(?:https?:)?//[^)]*", styles) == []


def test_the_site_names_no_folder_of_the_machine_that_built_it(site):
    files = [path for suffix in ("html", "json", "css") for path in site.rglob(f"*.{suffix}")]
    folders = [f"{folder}/" for folder in (ROOT, Path.home()) if folder != Path("/")]
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    assert [name for name, text in texts.items() if any(folder in text for folder in folders)] == []


def test_the_code_of_the_home_page_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    script = tmp_path / "home.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stale_moving_statistics" in done.stdout  # a finding that the page speaks of


def test_the_home_page_and_the_header_name_the_repository_of_the_package(site):
    url = re.search(r"^url = (.*)", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert f"pip install git+{url}\n" in (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert f'<a href="{url}"' in (site / "index.html").read_text(encoding="utf-8")


def test_every_picture_has_a_text_that_says_what_it_shows(pages):
    texts = {f"{name}: {source}": text for name, page in pages.items() for source, text in page.alternatives.items()}
    assert len(texts) > 40
    assert [picture for picture, text in texts.items() if len(text.split()) < 5] == []
    notebooks = [text for picture, text in texts.items() if picture.startswith("tutorials/")]
    assert len(set(notebooks)) == len(notebooks)


def test_every_formula_of_the_api_is_set(site):
    """What is left of plain text in blocks: the fields of a report."""
    plain = re.compile(r'<div class="highlight"><pre><span></span><code>([^<]*)</code></pre></div>')
    texts = {path: path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html")}
    assert sum(text.count("<math") for text in texts.values()) > 60
    left = [block for text in texts.values() for block in plain.findall(text)]
    assert [block for block in left if re.search(r" = |&lt;-", block)] == []


def test_what_the_guide_and_the_readme_say_was_measured_is_among_the_results():
    guide, readme, results = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("docs/which.md", "README.md", "docs/results.md")
    )
    figures = re.findall(r"[\d.]+ ± [\d.]+", guide + readme)
    assert figures
    assert [figure for figure in figures if figure not in results] == []


LAYERS = ("batch", "group", "instance", "layer")
BYTES = {"float32": 4, "bfloat16": 2}
OWN = {"tensorflow": "FusedBatchNormV3", "jax": "flax.nnx", "torch": "torch.nn.functional"}
RUNS = {  # what the page calls it, and: backend, mode, what the name of a layer ends with
    "TensorFlow, XLA": ("tensorflow", "xla", ""),
    "TensorFlow, graph": ("tensorflow", "graph", ""),
    "TensorFlow, eager": ("tensorflow", "eager", ""),
    "JAX": ("jax", "jit", ""),
    "torch": ("torch", "eager", ""),
    "torch, axis=1": ("torch", "eager", " axis=1"),
}


def measured(run, dtype, contender, field, layers=LAYERS):
    """What a benchmark on a GPU found, forward and backward, over these layers and all shapes."""
    backend, mode, suffix = RUNS[run]
    name = "_".join(["speed_layers", backend, *([] if dtype == "float32" else [dtype]), mode, "h100.csv"])
    rows = csv.DictReader((ROOT / "docs/results" / name).read_text().splitlines())
    wanted = [(layer + suffix, "forward + backward", contender) for layer in layers]
    return [float(row[field]) for row in rows if (row["layer"], row["step"], row["contender"]) in wanted]


def interval(values, digits=None):
    """Such as "1.45 to 1.78", as the page has it: two digits below 2, else one."""
    ends = [f"{end:.{(2 if end < 2 else 1) if digits is None else digits}f}" for end in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def table_of(header):
    """The rows of the table of docs/speed.md that begins so."""
    text = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    lines = text.partition(f"\n| {header} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_times_on_a_gpu_are_those_of_the_rows():
    table = table_of("keras_norm (`keras.layers`)")
    assert [label for label, *_ in table] == [f"{run}, {dtype}" for run in RUNS for dtype in BYTES]
    for label, *cells in table:
        run, dtype = label.rsplit(", ", 1)
        found = [
            [measured(run, dtype, of, "limits", [layer]) for of in ("keras_norm", "keras.layers")] for layer in LAYERS
        ]
        assert cells[:4] == [f"{interval(ours)} ({interval(theirs)})" if ours else "" for ours, theirs in found], label


def test_the_memory_on_a_gpu_is_that_of_the_rows():
    table = table_of("units of x")
    assert [label for label, *_ in table] == [f"{run}, {dtype}" for run in RUNS for dtype in BYTES]
    for label, *cells in table:
        run, dtype = label.rsplit(", ", 1)
        unit = 256 * 56 * 56 * 256 * BYTES[dtype] / 2**20
        found = [measured(run, dtype, of, "peak_mib") for of in ("keras_norm", "keras.layers", OWN[RUNS[run][0]])]
        assert cells == [interval([peak / unit for peak in peaks], 1) for peaks in found], label


def test_the_ratios_on_a_gpu_are_those_of_the_rows():
    table = table_of("peer over keras_norm, float32 / bfloat16")
    assert len(table) == 2 * len(RUNS)
    for label, *cells in table:
        run, peer = label.rsplit(", ", 1)
        found = [[measured(run, dtype, peer, "ratio", [layer]) for dtype in BYTES] for layer in LAYERS]
        means = [" / ".join(f"{geometric_mean(ratios):.2f}" for ratios in both if ratios) for both in found]
        assert cells == means, label


def test_every_notebook_is_a_page_with_its_pictures(pages):
    for path in sorted((ROOT / "tutorials" / "notebooks").glob("*.ipynb")):
        outputs = [o for cell in json.loads(path.read_text())["cells"] for o in cell.get("outputs", [])]
        pictures = [o for o in outputs if "image/png" in o.get("data", {})]
        shown = [source for source in pages[f"tutorials/{path.stem}.html"].sources if source.endswith(".png")]
        assert len([source for source in shown if source.startswith(path.stem)]) == len(pictures)
        assert f"tutorials/{path.stem}.html" in [posixpath.normpath(link) for link in pages["index.html"].links], (
            "not in the navigation"
        )


@pytest.fixture(scope="module")
def address(site):
    with served(site) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


def test_no_page_is_wider_than_the_window_of_a_laptop_or_a_phone(pages, address, browser):
    overflow = (Path(__file__).parent / "support" / "overflow.js").read_text(encoding="utf-8")
    found = {}
    for name in sorted(pages):
        browser.show(f"{address}/{name}")
        for width in (1280, 390):
            browser.resize(width)
            found[name, width] = browser.evaluate(f"({overflow})({width})")
    assert {key: parts for key, parts in found.items() if parts} == {}
    assert [url for url in browser.requests if not url.startswith((address, "data:"))] == []


def first_result(browser, address, query):
    """The page and the section that the site's own search shows first."""
    browser.show(f"{address}/index.html?q={quote(query)}")
    links = browser.evaluate("""new Promise((resolve) => {
        const look = () => {
            const links = [...document.querySelectorAll(".md-search-result__link")];
            links.length ? resolve(links.map((link) => link.href)) : setTimeout(look, 20);
        };
        look();
    })""")
    page, section = (urlsplit(link) for link in links[:2])
    assert page.path == section.path
    return f"{section.path.removeprefix('/')}#{section.fragment}"


OTHER_NAMES = {
    "sync batch norm": "keras_norm.BatchNormalization",
    "group norm": "keras_norm.GroupNormalization",
    "layer norm": "keras_norm.LayerNormalization",
    "InstanceNorm": "keras_norm.InstanceNormalization",
    "frozen batch norm": "keras_norm.FrozenBatchNormalization",
    "weight norm": "keras_norm.WeightNormalization",
    "AdaIN": "keras_norm.AdaptiveInstanceNormalization",
}


def test_the_search_shows_the_api_of_a_class_first(pages, address, browser):
    queries = {name: f"keras_norm.{name}" for name in vars(keras_norm) if name[0].isupper()} | OTHER_NAMES
    pages_of = {anchor: name for name, page in pages.items() if name.startswith("api/") for anchor in page.anchors}
    expected = {query: f"{pages_of[name]}#{name}" for query, name in queries.items()}
    assert {query: first_result(browser, address, query) for query in queries} == expected


def test_every_other_name_in_the_search_is_of_a_public_class():
    aliases = tomllib.loads((ROOT / "docs/aliases.toml").read_text(encoding="utf-8"))
    assert {name for name in aliases if not hasattr(keras_norm, name)} == set()
