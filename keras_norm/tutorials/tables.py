"""Tables of runs: rows of a CSV file, and their mean and standard deviation over the seeds."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keras_norm.tutorials.figures import STYLES


def spread(values: Iterable[float], digits: int = 1) -> str:
    """Mean and standard deviation as text, or only the mean for a single value.

    >>> spread([2.0, 4.0])
    '3.0 ± 1.4'
    """
    values = list(values)
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def summary(runs: pd.DataFrame, rows: str, columns: str, value: str, digits: int = 1) -> pd.DataFrame:
    """The mean and standard deviation of `value` over the seeds, for each pair of `rows` and `columns`.

    Rows and columns keep the order in which they first appear; an empty cell was not run.

    Args:
        runs: a row for each run.
        rows: the name of the column whose values become rows; methods of `figures.STYLES` are shown by their labels.
        columns: the name of the column whose values become columns.
        value: the name of the column with what was measured.
        digits: decimal places.
    """
    cells = runs.groupby([rows, columns])[value].agg(lambda values: spread(values, digits)).unstack(columns)
    ordered = cells.loc[runs[rows].unique(), runs[columns].unique()].fillna("")
    return ordered.rename(index=lambda name: STYLES[name].label if name in STYLES else name)


def markdown(table: pd.DataFrame, corner: str = "") -> str:
    """The table in Markdown, `corner` above the names of its rows."""
    lines = [[corner, *map(str, table.columns)], ["---"] * (1 + len(table.columns))]
    lines += [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(results: dict[str, pd.DataFrame]) -> None:
    """Prints each table in Markdown, its name above the names of its rows."""
    for name, table in results.items():
        print(markdown(table, name), end="\n\n")


def recorded(rows: Iterable[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    """Yields `rows` one by one, each once it is written to the CSV file `path`: what is stopped keeps its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            yield row


def read(paths: Path | Sequence[Path]) -> pd.DataFrame:
    """The rows of one or several CSV files."""
    paths = [paths] if isinstance(paths, (str, Path)) else paths
    return pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
