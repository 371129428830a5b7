"""A CSV file that says what belongs to each image: numbers, a class, or the file of another image such as a mask."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modetrain.data.sources.messages import format_path
from modetrain.errors import ConfigError

LABEL = "label"  # the column whose texts are classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of one split.

    Attributes:
      folder: where its files lie.
      values: by name the text or number of each example.
      classes: the names of the classes, also of those without an example; None where only the column `label` tells.
    """

    folder: str
    values: Mapping[str, Sequence[Any]]
    classes: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """The columns of one split as features: arrays, and files of images."""

    arrays: dict[str, np.ndarray]
    files: dict[str, list[str]]


def read(file: str, folder: str) -> tuple[list[str], dict[str, list[str]]]:
    """The files that a table names in its first column, and its other columns by name.

    Args:
      file: the table.
      folder: where the files lie.

    Raises:
      ConfigError: it is no table, a line has another number of cells, or a file does not exist or stands in two lines.
    """
    where = format_path(file)
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            lines = [(number, cells) for number, cells in enumerate(csv.reader(opened), start=1) if any(cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{where}: cannot be read as CSV ({error}). Save it as UTF-8, with commas.") from error
    if len(lines) < 2:
        raise ConfigError(
            f"{where}: no examples in it. Expected: a line of names, such as file,label, and a line for each image."
        )
    header = [name.strip() for name in lines[0][1]]
    if len(header) < 2:
        raise ConfigError(
            f"{where}: its first line has one column, {lines[0][1][0]!r}. Expected: names with commas between them, such as "
            "file,label; the first column names the images."
        )
    if len(set(header)) < len(header) or "" in header[1:] or "image" in header[1:]:
        raise ConfigError(
            f"{where}: its columns are {', '.join(header)}. Each needs a name of its own, and `image` is the image itself."
        )
    rows: dict[str, list[str]] = {}
    for number, cells in lines[1:]:
        name = os.path.normpath(cells[0].strip())
        if len(cells) != len(header):
            raise ConfigError(f"{where}: line {number} has {len(cells)} cells, and the first line has {len(header)}.")
        if not os.path.isfile(os.path.join(folder, name)):
            raise ConfigError(
                f"{where}: line {number} names {cells[0]!r}, and there is no such file in {format_path(folder)}. Expected: the "
                f"first column, {header[0]!r}, has the path of an image in that folder."
            )
        if name in rows:
            raise ConfigError(f"{where}: {name} stands in two lines, the second one is line {number}. Keep one.")
        rows[name] = [cell.strip() for cell in cells[1:]]
        if "" in rows[name]:
            raise ConfigError(
                f"{where}: line {number} has no `{header[1 + rows[name].index('')]}`. Fill it, or leave the line out."
            )
    return list(rows), {name: [cells[index] for cells in rows.values()] for index, name in enumerate(header[1:])}


def join(splits: Mapping[str, Columns], where: str) -> tuple[dict[str, Features], dict[str, Any]]:
    """The columns of all splits as features, and what is known of them: `classes`, `class_names`.

    A column is of one kind in all splits: whole numbers, numbers, images, or texts. Texts of the column `label` are classes,
    numbered in the order of their names.

    Args:
      splits: by name the columns.
      where: the folder, for messages.

    Raises:
      ConfigError: the splits have different columns, or a class has no example.
    """
    first = next(iter(splits))
    for name, split in splits.items():
        if set(split.values) != set(splits[first].values):
            one, other = (", ".join(splits[which].values) or "no label" for which in (first, name))
            raise ConfigError(
                f"{where}: the split {first} has {one}, and {name} has {other}. Give both the same columns."
            )
    found = {name: Features(arrays={}, files={}) for name in splits}
    facts: dict[str, Any] = {}
    for column in splits[first].values:
        every = [value for split in splits.values() for value in split.values[column]]
        named = column == LABEL and splits[first].classes is not None
        kind = None if named else _number(every)
        if column == LABEL and kind is not np.float32:
            facts |= _classes(splits, every, kind is not None, where)
        for name, split in splits.items():
            values = split.values[column]
            if column == LABEL and "class_names" in facts:
                numbers = {one: index for index, one in enumerate(facts["class_names"])}
                found[name].arrays[column] = np.array([numbers[value] for value in values], np.int32)
            elif kind is not None:
                of_class = column == LABEL and kind is np.int64
                found[name].arrays[column] = np.array(values, np.int32 if of_class else kind)
            elif _are_files(values[:1], split.folder):
                found[name].files[column] = _checked_files(values, split.folder, column)
            else:
                found[name].arrays[column] = np.array([value.encode() for value in values], object)
    return found, facts


def _classes(splits: Mapping[str, Columns], every: Sequence[Any], numbered: bool, where: str) -> dict[str, Any]:
    if numbered:
        lowest, highest = min(map(int, every)), max(map(int, every))
        if lowest < 0:
            raise ConfigError(f"{where}: `label` reaches from {lowest} to {highest}. Classes are numbered from 0.")
        return {"classes": highest + 1}
    folders = {name for split in splits.values() for name in split.classes or ()}
    if empty := sorted(folders - {*every}):
        raise ConfigError(
            f"{where}: the class {empty[0]} has no image in any split. Remove its folder, or put images into it."
        )
    return {"classes": len({*every}), "class_names": tuple(sorted({*every}))}


def _number(values: Sequence[str]) -> type | None:
    """np.int64 or np.float32 where all values are such numbers."""
    try:
        [int(value) for value in values]
        return np.int64
    except ValueError:
        pass
    try:
        return np.float32 if np.isfinite([float(value) for value in values]).all() else None
    except ValueError:
        return None


def _are_files(values: Sequence[str], folder: str) -> bool:
    return all(os.path.isfile(os.path.join(folder, value)) for value in values)


def _checked_files(values: Sequence[str], folder: str, column: str) -> list[str]:
    for value in values:
        if not os.path.isfile(os.path.join(folder, value)):
            raise ConfigError(
                f"{format_path(folder)}: the table names {value!r} as `{column}`, and there is no such file."
            )
    return [os.path.normpath(value) for value in values]
