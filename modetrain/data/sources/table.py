"""Tables: `data=table`. Each column of a CSV or Parquet file is a feature of its own name."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from modetrain.data.sources.messages import format_path
from modetrain.errors import ConfigError, did_you_mean
from modetrain.schema import Bounds

if TYPE_CHECKING:
    from modetrain.data.source import Splits

_ENDINGS = (".csv", ".tsv", ".parquet")
_SPLITS = ("train", "validation", "test")
_SHARE = 0.2
_ELECTION = Path(__file__).parent.parent / "samples" / "election_1996.csv"
_UNKNOWN = 0  # the number of a category that training does not have; those it has count from 1

Columns = Mapping[str, np.ndarray]  # by name text, or numbers of a Parquet file


def load(
    path: str,
    *,
    target: str | None = None,
    numeric: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    text: Sequence[str] | None = None,
    held_out: Annotated[float, Bounds(at_least=0, below=1)] = _SHARE,
    standardize: bool = False,
    missing: Literal["stop", "mean"] = "stop",
) -> Splits:
    """The rows of a table by column: numbers float32 [n], categories int32 [n], text, and the target.

    A folder with `train.csv` and `validation.csv` or `test.csv` has these splits. Of one file `held_out` of the rows, drawn once
    and for all, are `validation`. A target of numbers is float32; one of text or whole numbers is a class, int32.

    Args:
      path: a .csv, .tsv or .parquet file, or a folder.
      target: the column to predict.
      numeric, categorical, text: columns; by default numeric where all values of training are numbers, else categorical. Once
        one of them is given, other columns are left out.
      held_out: share of the rows.
      standardize: numbers by the mean and the standard deviation of training.
      missing: what an empty number is: an error, or the mean of training. An empty category is unknown.

    Raises:
      ConfigError: names the file, the row and the column.
    """
    from modetrain.data.source import Splits

    tables = _tables(Path(path).expanduser(), held_out)
    train = tables["train"]
    kinds = _kinds(train, numeric, categorical, text, target)
    if target is not None and target not in train.columns:
        raise train.unknown("target", target)
    spec = _Spec.learn(train, kinds, target, standardize=standardize, missing=missing)
    names = {kind: [name for name, one in kinds.items() if one == kind] for kind in ("numeric", "categorical", "text")}
    said = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in names.items() if found)
    facts: dict[str, Any] = {"numeric": names["numeric"], "categorical": spec.categories, "target": target}
    if spec.classes:
        facts |= {"classes": len(spec.classes), "class_names": spec.classes}
    return Splits(
        {name: spec.features(table) for name, table in tables.items()},
        description=f"table {format_path(path)}, {said}" + (f"; target: {target}" if target else ""),
        **facts,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Table:
    """Rows of a file.

    Attributes:
      file: where they are from.
      columns: by name.
      rows: the number of each row in the file, from 1.
    """

    file: Path
    columns: Columns
    rows: np.ndarray

    def take(self, rows: np.ndarray) -> _Table:
        return _Table(
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
                found[index] = float(value) if value.strip() else np.nan
            except ValueError:
                raise ConfigError(
                    f"{format_path(self.file)}: row {self.rows[index]}, column {name}: {value!r} is no number, and the column is "
                    f"read as numbers. Correct it, or type 'data.categorical=[{name}]' with the other columns of text."
                ) from None
        return found

    def texts(self, name: str) -> np.ndarray:
        column = self.columns[name]
        return np.array([str(value).strip() for value in column.tolist()], object)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Spec:
    """What is learned of the training rows."""

    kinds: Mapping[str, str]
    target: str | None
    means: Mapping[str, tuple[float, float]]
    categories: Mapping[str, list[str]]
    classes: list[str]
    standardize: bool
    missing: str

    @classmethod
    def learn(
        cls, train: _Table, kinds: Mapping[str, str], target: str | None, *, standardize: bool, missing: str
    ) -> _Spec:
        means, categories = {}, {}
        for name, kind in kinds.items():
            if kind == "numeric":
                values = train.numbers(name)
                means[name] = (float(np.nanmean(values)), float(np.nanstd(values)) or 1.0)
            elif kind == "categorical":
                categories[name] = sorted({*train.texts(name)} - {""})
        classes: list[str] = []
        if target is not None and not _is_continuous(train, target):
            classes = sorted({*train.texts(target)}, key=lambda one: (len(one), one) if one.isdigit() else (0, one))
        return cls(
            kinds=kinds,
            target=target,
            means=means,
            categories=categories,
            classes=classes,
            standardize=standardize,
            missing=missing,
        )

    def features(self, table: _Table) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for name, kind in {**self.kinds, **({self.target: "target"} if self.target else {})}.items():
            if name not in table.columns:
                raise ConfigError(f"{format_path(table.file)} has no column {name}, which the training table has.")
            if kind == "numeric":
                found[name] = self._numbers(table, name)
            elif kind == "categorical":
                index = {one: number for number, one in enumerate(self.categories[name], 1)}
                found[name] = np.array([index.get(one, _UNKNOWN) for one in table.texts(name)], np.int32)
            elif kind == "text":
                found[name] = table.texts(name)
            elif self.classes:
                found[name] = self._classes(table, name)
            else:
                found[name] = self._stop_if_missing(table, name, table.numbers(name)).astype(np.float32)
        return found

    def _numbers(self, table: _Table, name: str) -> np.ndarray:
        values, (mean, deviation) = table.numbers(name), self.means[name]
        values = np.where(np.isnan(values), mean, values) if self.missing == "mean" else values
        values = self._stop_if_missing(table, name, values)
        return ((values - mean) / deviation if self.standardize else values).astype(np.float32)

    def _classes(self, table: _Table, name: str) -> np.ndarray:
        index = {one: number for number, one in enumerate(self.classes)}
        for row, one in zip(table.rows, table.texts(name), strict=True):
            if one not in index:
                raise ConfigError(
                    f"{format_path(table.file)}: row {row}, column {name}: {one!r} is no class of training "
                    f"({', '.join(self.classes[:8])})."
                )
        return np.array([index[one] for one in table.texts(name)], np.int32)

    def _stop_if_missing(self, table: _Table, name: str, values: np.ndarray) -> np.ndarray:
        empty = np.flatnonzero(np.isnan(values))
        if len(empty):
            raise ConfigError(
                f"{format_path(table.file)}: row {table.rows[empty[0]]}, column {name} is empty"
                + (f", and {len(empty) - 1} more" if len(empty) > 1 else "")
                + ". Fill them in"
                + ("." if name == self.target else ", or type data.missing=mean.")
            )
        return values


def _tables(path: Path, held_out: float) -> dict[str, _Table]:
    if path.is_dir():
        found = {
            name: path / f"{name}{end}" for name in _SPLITS for end in _ENDINGS if (path / f"{name}{end}").is_file()
        }
        if "train" not in found:
            raise ConfigError(
                f"data.path={format_path(path)}: it has no {' or '.join(f'train{end}' for end in _ENDINGS)}. Type "
                "data.path= with a table."
            )
        return {name: _read(file) for name, file in found.items()}
    if not path.is_file():
        raise ConfigError(
            f"data.path={format_path(path)}: there is no such table. Type data.path= with a .csv or .parquet file."
        )
    table = _read(path)
    order = np.random.default_rng(0).permutation(len(table.rows))
    held = round(len(order) * held_out)
    parts = {"validation": np.sort(order[:held]), "train": np.sort(order[held:])}
    return {name: table.take(rows) for name, rows in parts.items() if len(rows)}


def _read(file: Path) -> _Table:
    columns: dict[str, np.ndarray]
    if file.suffix == ".parquet":
        try:
            from pyarrow import parquet
        except ImportError:
            raise ConfigError(
                f"{format_path(file)}: reading it needs pyarrow. Type pip install modetrain[parquet]."
            ) from None
        read = parquet.read_table(file)
        columns = {name: np.asarray(read[name].to_numpy()) for name in read.column_names}
        rows = np.arange(1, read.num_rows + 1)
    else:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            records = list(csv.reader(lines, delimiter="\t" if file.suffix == ".tsv" else ","))
        names, *held = [record for record in records if record] or [[]]
        for number, record in enumerate(held, 2):
            if len(record) != len(names):
                raise ConfigError(
                    f"{format_path(file)}: line {number} has {len(record)} values, and the first line names {len(names)} columns."
                )
        values = np.array(held, object).reshape(len(held), len(names))
        columns = {name.strip(): values[:, index] for index, name in enumerate(names)}
        rows = np.arange(1, len(held) + 1)
    if not len(rows):
        raise ConfigError(f"{format_path(file)} has no rows.")
    return _Table(file=file, columns=columns, rows=rows)


def _kinds(
    train: _Table,
    numeric: Sequence[str] | None,
    categorical: Sequence[str] | None,
    text: Sequence[str] | None,
    target: str | None,
) -> dict[str, str]:
    """The kind of each column that is used, in the order of the table."""
    given = {"numeric": numeric, "categorical": categorical, "text": text}
    chosen = {name: kind for kind, names in given.items() for name in names or ()}
    for key, names in given.items():
        for name in names or ():
            if name not in train.columns:
                raise train.unknown(key, name)
    if chosen:
        return {name: chosen[name] for name in train.columns if name in chosen}
    return {
        name: "numeric" if _is_numeric(train.columns[name]) else "categorical"
        for name in train.columns
        if name != target
    }


def _is_numeric(column: np.ndarray) -> bool:
    if column.dtype.kind in "biuf":
        return True
    try:
        return any(str(value).strip() for value in column) and all(
            float(value) is not None for value in column if str(value).strip()
        )
    except ValueError:
        return False


def _is_continuous(table: _Table, name: str) -> bool:
    """Whether a column has numbers that are not all whole."""
    if not _is_numeric(table.columns[name]):
        return False
    values = table.numbers(name)
    return bool((values != np.round(values)).any())


def election(*, held_out: Annotated[float, Bounds(at_least=0, below=1)] = _SHARE) -> Splits:
    """The bundled survey before the US election of 1996: who means to vote for whom (`samples/README.md`)."""
    found = load(str(_ELECTION), target="vote", held_out=held_out, standardize=True)
    found.description = "bundled survey before the US election of 1996"
    return found
