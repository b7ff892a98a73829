"""Columns of files of pairs: numbers in TSV files, names in Parquet and Arrow files."""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "COLUMNS_WITH_FEATURES",
    "COLUMN_NAMES",
    "ColumnNames",
    "ColumnNumbers",
    "Columns",
    "are_names",
    "as_names",
    "as_numbers",
    "listed",
]

ColumnNumbers = tuple[int, ...]
ColumnNames = tuple[str, ...]
Columns = ColumnNumbers | ColumnNames
"""Numbers (from 1) or names of the columns of source and target, and of the features if there are any."""
COLUMNS_WITH_FEATURES: Final[ColumnNumbers] = (1, 2, 3)
"""The usual columns of a TSV file of pairs with features, which training recognizes."""
COLUMN_NAMES: Final[ColumnNames] = ("source", "target", "features")
"""The usual names; a column of features is optional."""


def are_names(columns: Columns) -> bool:
    """Return True for columns that are chosen by name."""
    return isinstance(columns[0], str)


def as_numbers(columns: Columns | None) -> ColumnNumbers | None:
    """Return the numbers of columns for a TSV file; names, chosen for others, only say whether features are read."""
    numbers = () if columns is None else tuple(column for column in columns if isinstance(column, int))
    return numbers or (COLUMNS_WITH_FEATURES if columns is not None and len(columns) > 2 else None)


def as_names(columns: Columns | None) -> ColumnNames | None:
    """Return names of columns; numbers, chosen for TSV files, only say whether features are read."""
    names = () if columns is None else tuple(column for column in columns if isinstance(column, str))
    return names or (None if columns is None else COLUMN_NAMES[: len(columns)])


def listed(columns: tuple[Any, ...]) -> str:
    """Return columns as ``--columns`` takes them."""
    return ",".join(map(str, columns))
