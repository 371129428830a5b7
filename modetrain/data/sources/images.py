"""`data=images`: a folder of image files, a folder for each class, or with a table of labels (see docs/your-data.md)."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modetrain.data.sources import labels_table
from modetrain.data.sources.messages import data_override, format_path
from modetrain.errors import ConfigError

if TYPE_CHECKING:
    from modetrain.data.source import Splits

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")  # that TensorFlow decodes
_SPLITS = ("train", "validation", "val", "valid", "eval", "dev", "test")
_LAYOUTS = "SPLIT/CLASS/1.jpg, CLASS/1.jpg, or images beside a labels.csv"


@dataclasses.dataclass(kw_only=True)
class Listing:
    """The examples of one split.

    Attributes:
      folder: where the files lie.
      files: by row the file's path in the folder.
      columns: what a table says of them: by name the values.
      classes: the folders of the classes, also of those without a file.
    """

    folder: str
    files: list[str]
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes: Sequence[str] = ()


def images(
    path: str | None,
    image_size: Sequence[int] | None = None,
    channels: Literal[1, 3] | None = None,
    labels: str | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> Splits:
    """The splits of a folder of image files.

    Args:
      path: the folder.
      image_size: [height, width] that images are resized to; None where all have one size.
      channels: 3 for colours, 1 for gray; None for those of the files.
      labels: the table, a CSV file in the folder of each split; by default `labels.csv` where there is one.
      on_error: what is done where a file cannot be read.

    Raises:
      ConfigError: the folder has another layout, the table does not fit, or images differ.
    """
    folder = _folder(path)
    found = _listings(folder, labels)
    where = format_path(folder)
    for name, listing in found.items():
        if not listing.files:
            raise ConfigError(
                f"{format_path(listing.folder)}: the split {name} holds no image ({', '.join(SUFFIXES)})."
            )
    from modetrain.data.image_files import ImageFiles, Images  # with TensorFlow
    from modetrain.data.source import Splits

    size = None if image_size is None else (image_size[0], image_size[1])
    columns, facts = labels_table.join({name: _columns(listing) for name, listing in found.items()}, where)
    names, first = facts.get("class_names", ()), next(iter(found))
    if missing := sorted({*range(len(names))} - {*columns[first].arrays.get(labels_table.LABEL, np.empty(0)).tolist()}):
        some = ", ".join(names[index] for index in missing[:8]) + (", ..." if len(missing) > 8 else "")
        log.warning(f"data: the split {first} of {where} has no image of {some}: training cannot teach them")
    splits: dict[str, ImageFiles] = {}
    for name, listing in found.items():
        features = {"image": Images(folder=listing.folder, files=listing.files, size=size, channels=channels)}
        for column, files in columns[name].files.items():
            features[column] = Images(folder=listing.folder, files=files, size=size, nearest=True)
        splits[name] = ImageFiles(
            features,
            columns[name].arrays,
            name=f"the split {name} of {where}",
            like=next(iter(splits.values()), None),
            on_error=on_error,
        )
    return Splits(splits, description=f"images in {where}", **facts)


def _folder(path: str | None) -> str:
    if path is None:
        raise ConfigError("data.path=null: no folder to read images from. Type data.path=FOLDER.")
    if not os.path.isdir(path):
        seen = "is a file" if os.path.exists(path) else "does not exist"
        fix = data_override("path", format_path(os.path.dirname(path))) if os.path.isfile(path) else "data.path=FOLDER"
        raise ConfigError(f"data.path={format_path(path)}: that folder {seen}. Type {fix}.")
    return os.path.abspath(path)


# --- the layout -------------------------------------------------------------------------------------------------------


def _listings(folder: str, table: str | None) -> dict[str, Listing]:
    """The splits of a folder by name."""
    left_out: list[str] = []
    if _table_in(folder, table):
        found = {"train": _tabled(folder, table)}
    else:
        folders, own, others = _scan(folder)
        inner = {name: _scan(os.path.join(folder, name)) for name in folders}
        splits = [
            name
            for name, (classes, files, _) in inner.items()
            if _table_in(os.path.join(folder, name), table)
            or (name in _SPLITS and (files or classes))
            or any(_scan(os.path.join(folder, name, one))[1] for one in classes)
        ]
        if splits:
            found = {name: _split(os.path.join(folder, name), table, left_out) for name in sorted(splits, key=_rank)}
            left_out += [os.path.join(folder, name) for name in folders if name not in splits]
            left_out += [os.path.join(folder, name) for name in (*own, *others)]
        elif any(files for _, files, _ in inner.values()) or own:
            found = {"train": _split(folder, table, left_out)}
        else:
            held = ", ".join(sorted(os.listdir(folder))[:8]) or "nothing"
            raise ConfigError(
                f"data.path={format_path(folder)}: no image in it; it holds {held}. Expected: {_LAYOUTS}."
            )
    if table is not None and not any(listing.columns for listing in found.values()):
        raise ConfigError(
            f"data.labels={table}: there is no such file in {format_path(folder)}, nor in the folder of a split. Type "
            "data.labels=null, or the name of a CSV file there."
        )
    if left_out:
        some = ", ".join(format_path(one) for one in left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        log.warning(f"data: {len(left_out):,} files and folders are no images of a class, and are left out: {some}")
    return found


def _rank(name: str) -> tuple[int, str]:
    return (_SPLITS.index(name) if name in _SPLITS else len(_SPLITS), name)


def _split(folder: str, table: str | None, left_out: list[str]) -> Listing:
    """One split: by its table, by a folder for each class, or images alone."""
    if _table_in(folder, table):
        return _tabled(folder, table)
    folders, own, others = _scan(folder)
    left_out += [os.path.join(folder, name) for name in others]
    if not folders:
        return Listing(folder=folder, files=own)
    left_out += [os.path.join(folder, name) for name in own]
    of_class: dict[str, list[str]] = {}
    for name in folders:
        inner, files, others = _scan(os.path.join(folder, name))
        left_out += [os.path.join(folder, name, one) for one in (*inner, *others)]
        of_class[name] = [os.path.join(name, file) for file in files]
    return Listing(folder=folder, files=_in_turn(of_class), classes=folders)


def _in_turn(of_class: Mapping[str, Sequence[str]]) -> list[str]:
    """The files of all classes in turn, so that any part of them has every class in its proportion."""
    placed = [
        ((2 * index + 1) / len(files), name, file)
        for name, files in of_class.items()
        for index, file in enumerate(files)
    ]
    return [file for *_, file in sorted(placed)]


def _tabled(folder: str, table: str | None) -> Listing:
    file = _table_in(folder, table)
    assert file is not None
    files, columns = labels_table.read(file, folder)
    order = sorted(range(len(files)), key=lambda row: files[row])
    return Listing(
        folder=folder,
        files=[files[row] for row in order],
        columns={name: [values[row] for row in order] for name, values in columns.items()},
    )


def _table_in(folder: str, table: str | None) -> str | None:
    file = os.path.join(folder, table or "labels.csv")
    return file if os.path.isfile(file) else None


def _scan(folder: str) -> tuple[list[str], list[str], list[str]]:
    """Names in a folder, each sorted, without hidden ones: folders, images, other files."""
    folders, files, others = [], [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(SUFFIXES):
                files.append(entry.name)
            else:
                others.append(entry.name)
    return sorted(folders), sorted(files), sorted(others)


def _columns(listing: Listing) -> labels_table.Columns:
    """What is known of the examples besides their images."""
    held = {file.split(os.sep)[0] for file in listing.files if os.sep in file}
    by_folder = bool(listing.classes) or ("label" not in listing.columns and len(held) > 1)
    values = dict(listing.columns)
    if by_folder:
        values["label"] = [os.path.dirname(file) for file in listing.files]
    return labels_table.Columns(
        folder=listing.folder, values=values, classes=listing.classes if listing.classes else None
    )
