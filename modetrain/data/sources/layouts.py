"""Folders that hold data in another layout than the library reads, and what makes the right one of them."""

from __future__ import annotations

import re
import shlex
import zipfile
from pathlib import Path

from modetrain.data.sources.messages import data_override
from modetrain.files.paths import format_path, visible

_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
_TABLES = (".csv", ".tsv", ".parquet", ".xlsx", ".arff", ".feather")


def explain(folder: Path, split: str) -> str:
    """What the folder holds instead of the split, and what to do; empty if nothing is known of it.

    Args:
      folder: the data folder; it has no file of the split.
      split: the split's name.
    """
    for file in visible(folder, "*.npz"):
        if found := _halves(file):
            image, label, names = found
            return (
                f"{file.name} holds several splits ({', '.join(names)}) in one archive, and one archive a split is expected. "
                f"Save them apart once, with\n  {_command(file, image, label, names)}"
            )
    for inside in (folder / split, folder):
        classes = (
            [one.name for one in visible(inside) if one.is_dir() and _holds(one, _PICTURES)] if inside.is_dir() else []
        )
        if classes:
            some = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
            return (
                f"{format_path(inside, Path.cwd())} holds a folder of pictures for each class ({some}), and data=folder reads "
                f"arrays or records. Type data=images {data_override('path', format_path(folder, Path.cwd()))}."
            )
    tables = [one for one in visible(folder) if one.suffix.lower() in _TABLES]
    if tables:
        return (
            f"{tables[0].name} is a table, and data=folder reads arrays or records. "
            + (
                ""
                if tables[0].suffix in (".csv", ".tsv", ".parquet")
                else "Save it as a .csv file, and type it as the path. "
            )
            + f"Type data=table {data_override('path', format_path(tables[0], Path.cwd()))}."
        )
    return ""


def _holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    return any(file.suffix.lower() in suffixes for file in visible(folder))


def _halves(file: Path) -> tuple[str, str, list[str]] | None:
    """How an archive with several splits names its images, its labels and the splits: ("x_{}", "y_{}", ["test", "train"])."""
    try:
        with zipfile.ZipFile(file) as archive:
            held = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return None
    if {"image", "label"} <= held:
        return None
    pairs = [("x_{}", "y_{}"), ("X_{}", "y_{}"), ("image_{}", "label_{}"), ("images_{}", "labels_{}")]
    pairs += [("{}_image", "{}_label"), ("{}_images", "{}_labels"), ("{}_x", "{}_y"), ("{}_X", "{}_y")]
    for image, label in pairs:
        pattern = re.compile(re.escape(image).replace(r"\{\}", r"(\w+)"))
        names = sorted(
            match[1] for name in held if (match := pattern.fullmatch(name)) and label.format(match[1]) in held
        )
        if names:
            return image, label, names
    return None


def _command(file: Path, image: str, label: str, names: list[str]) -> str:
    """A command that saves each split of an archive as one of its own, beside it."""
    key, value = (
        " + ".join(repr(part) for part in form.replace("{}", "|n|").split("|") if part) for form in (image, label)
    )
    key, value = key.replace("'n'", "n"), value.replace("'n'", "n")
    code = (
        f"import numpy as np; d = np.load({str(file)!r}); "
        f"[np.savez({f'{file.parent}/'!r} + n + '.npz', image=d[{key}], label=d[{value}].squeeze()) for n in {names!r}]"
    )
    return f"python -c {shlex.quote(code)}"
