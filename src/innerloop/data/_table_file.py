"""Tables in files: CSV by the standard library, Parquet by pyarrow."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from innerloop.data.errors import DataError
from innerloop.extras import extra

__all__ = ["TABLES", "read_table"]

TABLES = (".csv", ".tsv", ".parquet")
"""The endings of files that are taken for tables."""


def read_table(path: Path) -> dict[str, list[Any]]:
    """Read a table: the values of each column, by name. Those of CSV are texts.

    The first row of a CSV file names the columns. The separator is a comma, a semicolon or a tab, whichever is most
    frequent in that row.

    Raises:
        DataError: the file is absent, is no table, or a row has more or fewer values than there are columns.
        MissingExtraError: it is Parquet, and pyarrow is absent.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist or is no file: expected a table ({', '.join(TABLES)}).")
    if path.suffix.lower() == ".parquet":
        with extra("tables"):
            import pyarrow.parquet
        try:
            table = pyarrow.parquet.read_table(path)
            found: dict[str, list[Any]] = {name: table[name].to_pylist() for name in table.column_names}
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} is no readable Parquet file ({str(error).splitlines()[0]}).") from error
    else:
        found = _csv(path)
    if not found or not next(iter(found.values())):
        raise DataError(f"{path} has no rows.")
    return found


def _csv(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            names = [name.strip() for name in next(rows, [])]
            if len(set(names)) < len(names) or not all(names):
                raise DataError(f"{path}: the first row must name the columns, each differently; it is {names}.")
            columns: dict[str, list[Any]] = {name: [] for name in names}
            for row in rows:
                if not row:
                    continue
                if len(row) != len(names):
                    raise DataError(
                        f"{path}, line {rows.line_num}, has {len(row)} values; the first row has {len(names)}."
                    )
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV in UTF-8 ({error}).") from error
    return columns
