"""Makes pages of what lies outside docs/ (README, changelog, contributing, notebooks), with links as on a code host.

It sets the formulas, too, and ranks the API first in the search. A page has two paths: one in the repository, which
links are written for, and one in the site.
"""

import base64
import functools
import html as entities
import itertools
import json
import posixpath
import re
import tomllib
from pathlib import Path

from formulas import latex
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "overview.md",
    "tutorials/README.md": "tutorials/index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
NOTEBOOKS = sorted((ROOT / "tutorials" / "notebooks").glob("*.ipynb"))
ALTERNATIVES = tomllib.loads((ROOT / "docs" / "alternatives.toml").read_text(encoding="utf-8"))

REPOSITORY = re.search(r"^url = (\S+)", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)[1]

# What else the objects of the API are called.
ALIASES = tomllib.loads((ROOT / "docs" / "aliases.toml").read_text(encoding="utf-8"))
WORDY = 25  # characters per cell, in the mean
API_BOOST = 20  # in the search, before the pages that use a name

BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n", re.MULTILINE)  # an image of another host
PANDAS = re.compile(r"<style scoped>.*?</style>\n?|(?<=<table) border=\"1\" class=\"dataframe\"", re.DOTALL)
FENCE = re.compile(r"(^ *(`{3,}).*?^ *\2 *$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)")
LIST = re.compile(r"(^(?![*+-] |\d+\. )\S.*\n)(?=(?:[*+-]|1\.) )", re.MULTILINE)
DIRECTIVE = re.compile(r"^::: ([\w.]+)", re.MULTILINE)
PLAIN = re.compile(r'<div class="highlight"><pre><span></span><code>([^<]*)</code></pre></div>')
MATH = re.compile(r'<(div|span) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
CELL = re.compile(r"<t[hd][^>]*>(.*?)</t[hd]>", re.DOTALL)
CODE = re.compile(r"(<a\b.*?</a>|<h\d.*?</h\d>|<pre.*?</pre>)|<code>(?:kn\.|keras_norm\.)?([\w.]+)</code>", re.DOTALL)


def on_config(config):
    """Lists the notebooks in the navigation, and links the repository."""
    config.repo_url, config.repo_name = REPOSITORY, "keras_norm"
    tutorials = next(section["Tutorials"] for section in config.nav if "Tutorials" in section)
    tutorials += [{_short_title(path): f"tutorials/{path.stem}.md"} for path in NOTEBOOKS]
    return config


def on_files(files, config):
    """Adds the pages, and the pictures in the outputs of notebooks."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    for path in NOTEBOOKS:
        page, pictures = render_notebook(path)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=page))
        files.append(File.generated(config, f"tutorials/{path.name}", abs_src_path=str(path)))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=picture))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links between files of the repository into links between pages, and lets a list begin under a paragraph."""
    folder = posixpath.dirname(_repository_path(page.file.src_uri))

    def in_site(match):
        path = posixpath.normpath(posixpath.join(folder, match[1]))
        uri = _site_path(path)
        if files.get_file_from_path(uri) is None and (ROOT / path).is_file():
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
        return posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")

    markdown = markdown.replace(f"]({REPOSITORY}/blob/main/", f"]({posixpath.relpath('.', folder or '.')}/")
    parts = FENCE.split(markdown)  # text, fence, its backticks, text, ...
    parts[::3] = [LIST.sub(r"\1\n", LINK.sub(in_site, text)) for text in parts[::3]]
    return "".join(part for i, part in enumerate(parts) if i % 3 != 2)


def on_page_content(html, page, config, files):
    """Sets formulas, and links the names of documented objects in docstrings to their documentation."""
    html = PLAIN.sub(_formulas, html)
    html = MATH.sub(_math, html)
    html = TABLE.sub(_stacked, html)
    if not page.file.src_uri.startswith("api/"):
        return html
    return CODE.sub(lambda match: match[1] or _reference(match), html)


def on_post_build(config):
    """Ranks the API first in the search, whose index becomes a script too, for pages that are opened from a folder."""
    path = Path(config.site_dir, "search", "search_index.json")
    index = json.loads(path.read_text(encoding="utf-8"))
    for entry in index["docs"]:
        page, _, anchor = entry["location"].partition("#")
        if page.startswith("api/"):
            entry["boost"] = API_BOOST
            entry["tags"] = ALIASES.get(anchor.removeprefix("keras_norm."), [])
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".js").write_text(f"var __index = {text}", encoding="utf-8")


def render_notebook(path):
    """The Markdown of a notebook with its outputs, and its pictures by name; nothing is executed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pictures = {}  # by name
    alternatives = ALTERNATIVES.get(path.stem, [])
    texts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            texts.append(BADGE.sub("", source))
        elif source:
            texts.append(f"````python\n{source}\n````")
            for is_printed, outputs in itertools.groupby(cell["outputs"], lambda output: "text" in output):
                if is_printed:  # one block, however often the cell has written
                    outputs = [{"text": [line for output in outputs for line in output["text"]]}]
                texts += [_output(output, path.stem, pictures, alternatives) for output in outputs]
    if len(pictures) != len(alternatives):
        raise PluginError(f"docs/alternatives.toml: {path.stem} has {len(pictures)} pictures, not {len(alternatives)}.")
    texts.insert(1, f'<a href="{path.name}" download>Download this notebook</a>')
    return "\n\n".join(texts) + "\n", pictures


def _output(output, stem, pictures, alternatives):
    """The Markdown of one output; a picture goes to `pictures`."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        name = f"{stem}_{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return f"![{''.join(alternatives[len(pictures) - 1 : len(pictures)])}]({name})"
    if "text/html" in data:  # a data frame: the site's own style, not that of pandas
        return PANDAS.sub("", "".join(data["text/html"]))
    return "````{ .text .output }\n" + "".join(data["text/plain"]).rstrip() + "\n````"


def _short_title(path):
    """01_batch_size.ipynb: Batch size."""
    return path.stem.split("_", 1)[1].replace("_", " ").capitalize().replace("gans", "GANs")


def _repository_path(uri):
    """Where the source of a page of the site is."""
    sources = {page: path for path, page in PAGES.items()}
    notebook = uri.replace("tutorials/", "tutorials/notebooks/") if uri.startswith("tutorials/") else None
    return sources.get(uri) or notebook or f"docs/{uri}"


def _site_path(path):
    """Where a file of the repository is in the site."""
    if ROOT / path in NOTEBOOKS:
        return f"tutorials/{Path(path).stem}.md"
    return PAGES.get(path) or path.removeprefix("docs/").replace("tutorials/notebooks/", "tutorials/")


def _formulas(match):
    """A block of plain text as formulas, if each of its lines is one, or several with two or more spaces between."""
    lines = [re.split(r" {2,}", line.strip()) for line in entities.unescape(match[1]).splitlines()]
    try:
        lines = [[latex(formula) for formula in line] for line in lines]
    except ValueError:
        return match[0]
    return "\n".join(_block(line) for line in lines)


def _stacked(match):
    """A table of sentences, whose rows a phone shows as blocks: each cell has the heading of its column."""
    head, *rows = match[0].split("<tr>")[1:]
    labels = [entities.escape(re.sub("<.*?>", "", label)) for label in CELL.findall(head)]
    texts = [re.sub("<.*?>", "", text) for row in rows for text in CELL.findall(row)]
    if len(labels) < 3 or sum(map(len, texts)) < WORDY * len(texts):
        return match[0]
    for i, row in enumerate(rows):
        before, *cells = row.split("<td")
        labeled = [f'<td data-label="{label}"{cell}' for label, cell in zip(labels, cells, strict=True)]
        rows[i] = "".join([before, *labeled])
    return "<tr>".join(["<table data-stacked>\n<thead>\n", head, *rows])


def _math(match):
    """The MathML of LaTeX, which browsers draw without a script."""
    formula = entities.unescape(match[2])
    return _block([formula]) if match[1] == "div" else convert(formula)


def _block(formulas):
    """Formulas side by side, where there is room."""
    maths = "".join(convert(formula, display="block") for formula in formulas)
    return f'<div class="formula" data-search-exclude>{maths}</div>'


@functools.cache
def _documented():
    """The full name of each documented object, by its own name and by that in the package."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    names = [name for page in pages for name in DIRECTIVE.findall(page.read_text(encoding="utf-8"))]
    return {key: name for name in names for key in (name.split(".")[-1], name.removeprefix("keras_norm."))}


def _reference(match):
    name = _documented().get(match[2])
    return f'<autoref identifier="{name}" optional>{match[0]}</autoref>' if name else match[0]
