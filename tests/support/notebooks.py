"""What a stored notebook shows: its tables and its text."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import nbformat

TUTORIALS = Path(__file__).parents[2] / "tutorials"


class Measured(NamedTuple):
    """A mean and its standard deviation over the seeds; nan for a single run."""

    mean: float
    spread: float


class Table(dict):
    """The cells of a data frame as text, by the names of row and column."""

    def measured(self, row: str, column: str) -> Measured:
        """The cell `3.2 ± 0.4` as numbers."""
        mean, _, spread = self[row, column].partition("±")
        return Measured(float(mean), float(spread or "nan"))


class _Rows(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def tables_of(name: str) -> list[Table]:
    """Each data frame that the stored notebook `name` shows, in order."""
    notebook = nbformat.read(TUTORIALS / "notebooks" / f"{name}.ipynb", 4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    return [_table(page) for page in pages if "<table" in page]


def _table(page: str) -> Table:
    parser = _Rows()
    parser.feed(page)
    (_, *columns), *rows = parser.rows
    # The names of the index and of the columns have a row to themselves.
    rows = [row for row in rows if any(row[1:])]
    return Table({(row, column): cell for row, *cells in rows for column, cell in zip(columns, cells, strict=True)})


def text_of(name: str) -> str:
    """What the cells of the stored notebook `name` print."""
    notebook = nbformat.read(TUTORIALS / "notebooks" / f"{name}.ipynb", 4)
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return re.sub(r"\n{2,}", "\n", "\n".join(texts))
