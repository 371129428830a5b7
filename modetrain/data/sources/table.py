"""Tables: `data=table`. Each column of a CSV or Parquet file is a feature of its own name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from modetrain.data.sources.messages import format_path
from modetrain.data.sources.table_file import MISSING, Table, read
from modetrain.errors import ConfigError
from modetrain.schema import Bounds

if TYPE_CHECKING:
    from modetrain.data.source import Splits

_ENDINGS = (".csv", ".tsv", ".parquet")
_SPLITS = ("train", "validation", "test")
_SHARE = 0.2
_ELECTION = Path(__file__).parent.parent / "samples" / "election_1996.csv"
_MOST_CLASSES = 100  # a target of whole numbers with more of them is a number
_UNKNOWN = 0  # the number of a category that training does not have; those it has count from 1


def load(
    path: str,
    *,
    target: str | None = None,
    numeric: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    text: Sequence[str] | None = None,
    weight: str | None = None,
    eval_path: str | None = None,
    held_out: Annotated[float, Bounds(at_least=0, below=1)] = _SHARE,
    standardize: bool = False,
    missing: Literal["stop", "mean", "zero"] = "stop",
) -> Splits:
    """The rows of a table by column: numbers float32 [n], categories int32 [n], text, and the target.

    A folder with `train.csv` and `validation.csv` or `test.csv` has these splits. Of one file `held_out` of the rows, drawn once
    and for all, are `validation`. A target of numbers is float32; one of text, or of at most 100 different whole numbers, is a
    class, int32. It is what `numeric` or `categorical` says if they name it.

    Args:
      path: a .csv, .tsv or .parquet file, or a folder.
      target: the column to predict.
      numeric, categorical, text: columns; by default numeric where all values of training are numbers, else categorical. Once
        one of them is given, other columns are left out.
      weight: the column of the examples' weights; its feature is `weight`.
      eval_path: a file that is `validation`; then nothing is held out of `path`.
      held_out: share of the rows.
      standardize: numbers by the mean and the standard deviation of training.
      missing: what an empty number is: an error, the mean of training, or zero. An empty category is unknown.

    Raises:
      ConfigError: names the file, the row and the column.
    """
    from modetrain.data.source import Splits

    tables = _tables(Path(path).expanduser(), held_out if eval_path is None else 0)
    if eval_path is not None:
        tables["validation"] = read(Path(eval_path).expanduser(), "eval_path")
    train = tables["train"]
    for key, column in (("target", target), ("weight", weight)):
        if column is not None and column not in train.columns:
            raise train.unknown(key, column)
    kinds = _kinds(train, numeric, categorical, text)
    said_of_target = kinds.get(target or "", "") if numeric or categorical or text else ""
    kinds = {name: kind for name, kind in kinds.items() if name not in (target, weight)}
    classes = _classes(train, target, said_of_target)
    spec = _Spec.learn(train, kinds, target, classes=classes, weight=weight, standardize=standardize, missing=missing)
    names = {kind: [name for name, one in kinds.items() if one == kind] for kind in ("numeric", "categorical", "text")}
    said = "; ".join(f"{kind}: {', '.join(found)}" for kind, found in names.items() if found)
    facts: dict[str, Any] = {"numeric": names["numeric"], "categorical": spec.categories, "target": target}
    if spec.classes:
        facts |= {"classes": len(spec.classes), "class_names": spec.classes}
    return Splits(
        {name: spec.features(table) for name, table in tables.items()},
        description=f"table {format_path(path)}, {said}"
        + (f"; target: {target}, {f'{len(classes)} classes' if classes else 'a number'}" if target else ""),
        **facts,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Spec:
    """What is learned of the training rows."""

    kinds: Mapping[str, str]
    target: str | None
    means: Mapping[str, tuple[float, float]]
    categories: Mapping[str, list[str]]
    classes: list[str]
    weight: str | None
    standardize: bool
    missing: str

    @classmethod
    def learn(cls, train: Table, kinds: Mapping[str, str], target: str | None, *, missing: str, **more: Any) -> _Spec:
        means, categories = {}, {}
        for name, kind in kinds.items():
            if kind == "numeric":
                values = train.numbers(name)
                if np.isnan(values).all():
                    raise ConfigError(
                        f"{format_path(train.file)}: the column {name} is empty. Leave it out: name the columns to use in "
                        "data.numeric=, data.categorical= and data.text=."
                    )
                means[name] = (float(np.nanmean(values)), float(np.nanstd(values)) or 1.0)
            elif kind == "categorical":
                categories[name] = sorted(one for one in {*train.texts(name)} if one.lower() not in MISSING)
        return cls(kinds=kinds, target=target, means=means, categories=categories, missing=missing, **more)

    def features(self, table: Table) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        more = {name: key for key, name in (("target", self.target), ("weight", self.weight)) if name}
        for name, kind in {**self.kinds, **more}.items():
            if name not in table.columns:
                raise ConfigError(f"{format_path(table.file)} has no column {name}, which the training table has.")
            if kind == "numeric":
                found[name] = self._numbers(table, name)
            elif kind == "categorical":
                index = {one: number for number, one in enumerate(self.categories[name], 1)}
                found[name] = np.array([index.get(one, _UNKNOWN) for one in table.texts(name)], np.int32)
            elif kind == "text":
                found[name] = table.texts(name)
            elif kind == "weight":
                found["weight"] = self._stop_if_missing(table, name, table.numbers(name)).astype(np.float32)
            elif self.classes:
                found[name] = self._classes(table, name)
            else:
                found[name] = self._stop_if_missing(table, name, table.numbers(name)).astype(np.float32)
        return found

    def _numbers(self, table: Table, name: str) -> np.ndarray:
        values, (mean, deviation) = table.numbers(name), self.means[name]
        if self.missing != "stop":
            values = np.where(np.isnan(values), mean if self.missing == "mean" else 0.0, values)
        values = self._stop_if_missing(table, name, values)
        return ((values - mean) / deviation if self.standardize else values).astype(np.float32)

    def _classes(self, table: Table, name: str) -> np.ndarray:
        index = {one: number for number, one in enumerate(self.classes)}
        for row, one in zip(table.rows, table.texts(name), strict=True):
            if one not in index:
                raise ConfigError(
                    f"{format_path(table.file)}: row {row}, column {name}: {one!r} is no class of training "
                    f"({', '.join(self.classes[:8])})."
                )
        return np.array([index[one] for one in table.texts(name)], np.int32)

    def _stop_if_missing(self, table: Table, name: str, values: np.ndarray) -> np.ndarray:
        empty = np.flatnonzero(np.isnan(values))
        if len(empty):
            raise ConfigError(
                f"{format_path(table.file)}: row {table.rows[empty[0]]}, column {name} is empty"
                + (f", and {len(empty) - 1} more" if len(empty) > 1 else "")
                + ". Fill them in"
                + ("." if name in (self.target, self.weight) else ", or type data.missing=mean.")
            )
        return values


def _tables(path: Path, held_out: float) -> dict[str, Table]:
    if path.is_dir():
        found = {
            name: path / f"{name}{end}" for name in _SPLITS for end in _ENDINGS if (path / f"{name}{end}").is_file()
        }
        if "train" not in found:
            raise ConfigError(
                f"data.path={format_path(path)}: it has no {' or '.join(f'train{end}' for end in _ENDINGS)}. Type "
                "data.path= with a table."
            )
        return {name: read(file) for name, file in found.items()}
    table = read(path)
    order = np.random.default_rng(0).permutation(len(table.rows))
    held = round(len(order) * held_out)
    parts = {"validation": np.sort(order[:held]), "train": np.sort(order[held:])}
    return {name: table.take(rows) for name, rows in parts.items() if len(rows)}


def _kinds(
    train: Table,
    numeric: Sequence[str] | None,
    categorical: Sequence[str] | None,
    text: Sequence[str] | None,
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
    return {name: "numeric" if train.is_numeric(name) else "categorical" for name in train.columns}


def _classes(train: Table, target: str | None, said: str) -> list[str]:
    """The classes of the target in their order; none where it is a number."""
    if target is None or said == "numeric":
        return []
    if said != "categorical" and train.is_numeric(target):
        values = train.numbers(target)
        if (values != np.round(values)).any() or len(np.unique(values)) > _MOST_CLASSES:
            return []
    found = {one for one in train.texts(target) if one.lower() not in MISSING}
    return sorted(found, key=float if all(one.lstrip("-").isdigit() for one in found) else None)


def election(*, held_out: Annotated[float, Bounds(at_least=0, below=1)] = _SHARE) -> Splits:
    """The bundled survey before the US election of 1996: who means to vote for whom (`samples/README.md`)."""
    found = load(str(_ELECTION), target="vote", held_out=held_out, standardize=True)
    found.description = "bundled survey before the US election of 1996"
    return found
