"""Reads a table of a CSV or Parquet file by column, and names the row and column of what cannot be read."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modetrain.data.sources.messages import format_path
from modetrain.errors import ConfigError, did_you_mean

MISSING = ("", "na", "n/a", "nan", "null", "none")  # values that are missing, whatever their case
Columns = Mapping[str, np.ndarray]  # by name text, or numbers of a Parquet file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of a file.

    Attributes:
      file: where they are from.
      columns: by name.
      rows: the number of each row in the file, from 1.
    """

    file: Path
    columns: Columns
    rows: np.ndarray

    def take(self, rows: np.ndarray) -> Table:
        return Table(
            file=self.file, columns={name: one[rows] for name, one in self.columns.items()}, rows=self.rows[rows]
        )

    def unknown(self, key: str, name: str) -> ConfigError:
        known = list(self.columns)
        return ConfigError(
            f"data.{key}={name}: {format_path(self.file)} has no such column; it has {', '.join(known)}.{did_you_mean(name, known)}"
        )

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64; NaN where a value is missing.

        Raises:
          ConfigError: a value is no number.
        """
        column = self.columns[name]
        if column.dtype.kind in "biuf":
            return column.astype(np.float64)
        found = np.empty(len(column))
        for index, value in enumerate(column):
            try:
                found[index] = np.nan if is_missing(value) else float(value)
            except (TypeError, ValueError):
                raise ConfigError(
                    f"{format_path(self.file)}: row {self.rows[index]}, column {name}: {value!r} is no number, and the column is "
                    f"read as numbers. Correct it, or type 'data.categorical=[{name}]' with the other columns of text."
                ) from None
        return found

    def is_numeric(self, name: str) -> bool:
        """Whether all values that are there are numbers."""
        try:
            return not np.isnan(self.numbers(name)).all()
        except ConfigError:
            return False

    def texts(self, name: str) -> np.ndarray:
        """A column as text; empty where a value is missing."""
        return np.array([_text(value) for value in self.columns[name].tolist()], object)


def read(file: Path, key: str = "path") -> Table:
    if not file.is_file():
        raise ConfigError(
            f"data.{key}={format_path(file)}: there is no such table. Type data.{key}= with a .csv or .parquet file."
        )
    columns = _read_parquet(file) if file.suffix == ".parquet" else _read_csv(file)
    rows = len(next(iter(columns.values()), ()))
    if not rows:
        raise ConfigError(f"{format_path(file)} has no rows.")
    return Table(file=file, columns=columns, rows=np.arange(1, rows + 1))


def _read_parquet(file: Path) -> dict[str, np.ndarray]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(
            f"{format_path(file)}: reading it needs pyarrow. Type pip install 'modetrain[parquet]'."
        ) from None
    try:
        read = parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{format_path(file)} cannot be read as Parquet: {error}. Write it again.") from error
    return {name: np.asarray(read[name].to_numpy()) for name in read.column_names}


def _read_csv(file: Path) -> dict[str, np.ndarray]:
    delimiter = "\t" if file.suffix == ".tsv" else ","
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.reader(text, delimiter=delimiter)
            names = [name.strip() for name in next(reader, [])]
            held = []
            for record in reader:
                if record and len(record) != len(names):
                    raise ConfigError(
                        f"{format_path(file)}: line {reader.line_num} has {len(record)} values, and the first line names "
                        f"{len(names)} columns."
                    )
                if record:
                    held.append(record)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{format_path(file)}: {error.object[error.start]:#x} is no UTF-8. Save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise ConfigError(f"{format_path(file)}: line {reader.line_num} cannot be read: {error}.") from error
    if len(set(names)) < len(names) or "" in names:
        wrong = next(name for name in names if not name or names.count(name) > 1)
        raise ConfigError(
            f"{format_path(file)}: the first line names {f'the column {wrong} twice' if wrong else 'a column nothing'}. Give each "
            "column a name of its own."
        )
    values = np.array(held, object).reshape(len(held), len(names))
    return {name: values[:, index] for index, name in enumerate(names)}


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():  # whole numbers of a Parquet file, some of them missing
        value = int(value)
    return str(value).strip()


def is_missing(value: Any) -> bool:
    return _text(value).lower() in MISSING
