"""Makes pages of what lies outside docs/ (README, changelog, contributing, notebooks), with links as on a code host.

A page has two paths: one in the repository, which links are written for, and one in the site.
"""

import base64
import functools
import itertools
import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "tutorials/README.md": "tutorials/index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
NOTEBOOKS = sorted((ROOT / "tutorials" / "notebooks").glob("*.ipynb"))

REPOSITORY = re.search(r"^url = (\S+)", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)[1]

BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n", re.MULTILINE)  # an image of another host
PANDAS = re.compile(r"<style scoped>.*?</style>\n?|(?<=<table) border=\"1\" class=\"dataframe\"", re.DOTALL)
FENCE = re.compile(r"(^ *(`{3,}).*?^ *\2 *$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)")
LIST = re.compile(r"(^(?![*+-] |\d+\. )\S.*\n)(?=(?:[*+-]|1\.) )", re.MULTILINE)
DIRECTIVE = re.compile(r"^::: ([\w.]+)", re.MULTILINE)
CODE = re.compile(r"(<a\b.*?</a>|<h\d.*?</h\d>|<pre.*?</pre>)|<code>(?:kn\.|keras_norm\.)?([\w.]+)</code>", re.DOTALL)


def on_config(config):
    """Lists the notebooks in the navigation."""
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
    """Links the names of documented objects in docstrings to their documentation."""
    if not page.file.src_uri.startswith("api/"):
        return html
    return CODE.sub(lambda match: match[1] or _reference(match), html)


def on_post_build(config):
    """Writes the index of the search as a script too, for pages that are opened from a folder."""
    index = Path(config.site_dir, "search", "search_index.json")
    index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")


def render_notebook(path):
    """The Markdown of a notebook with its outputs, and its pictures by name; nothing is executed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pictures = {}
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
                texts += [_output(output, path.stem, pictures) for output in outputs]
    texts.insert(1, f'<a href="{path.name}" download>Download this notebook</a>')
    return "\n\n".join(texts) + "\n", pictures


def _output(output, stem, pictures):
    """The Markdown of one output; a picture goes to `pictures`."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        name = f"{stem}_{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return f"![Figure {len(pictures)}]({name})"
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


@functools.cache
def _documented():
    """The full name of each documented object, by its own name and by that in the package."""
    pages = (ROOT / "docs" / "api").glob("*.md")
    names = [name for page in pages for name in DIRECTIVE.findall(page.read_text(encoding="utf-8"))]
    return {key: name for name in names for key in (name.split(".")[-1], name.removeprefix("keras_norm."))}


def _reference(match):
    name = _documented().get(match[2])
    return f'<autoref identifier="{name}" optional>{match[0]}</autoref>' if name else match[0]
