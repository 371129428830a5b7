"""The user's own folder: `.npz` or `.npy` arrays, TFRecords, or a data set that TFDS prepared (see docs/your-data.md)."""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modetrain.data import aligned
from modetrain.data.sources import arrays, layouts, splits
from modetrain.data.sources.agreement import check_agreement
from modetrain.data.sources.messages import data_override, format_path
from modetrain.errors import ConfigError
from modetrain.files.paths import visible
from modetrain.settings import DataSettings

if TYPE_CHECKING:
    from modetrain.data.source import Source

_LAYOUTS = (
    "{0}.npz, or {0}/image.npy and {0}/label.npy, or {0}*.tfrecord* (and the same for every other split), "
    "or a folder that TFDS prepared, with dataset_info.json"
)
_ARCHIVE = "an archive of arrays, as np.savez(file, image=..., label=...) writes it"


def check(settings: DataSettings) -> None:
    """Raises ConfigError if the folder or one of its splits does not exist; opens no file."""
    folder = _path(settings)
    if (folder / "dataset_info.json").is_file():
        return
    for key, name in _wanted_splits(settings):
        if _layout(folder, name) is None:
            held = [entry.name + ("/" if entry.is_dir() else "") for entry in visible(folder)]
            listing = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
            others = [split for split in _splits(folder) if split != name]
            prepared = next(
                (found for depth in ("*", "*/*", "*/*/*") for found in visible(folder, f"{depth}/dataset_info.json")),
                None,
            )
            if other_layout := layouts.explain(folder, name):
                raise splits.UnknownSplit(f"data.path={format_path(folder)}: {other_layout}", key)
            if others:
                raise splits.unknown_split(key, getattr(settings, key), name, others, format_path(folder))
            advice = (
                f"Type {data_override('path', format_path(prepared.parent))}."
                if prepared
                else "Type data.path=FOLDER for such a folder."
            )
            raise splits.UnknownSplit(
                f"data.path={format_path(folder)}: it holds {listing or 'nothing'}. "
                f"Expected for data.{key}={getattr(settings, key)}: {_LAYOUTS.format(name)}. {advice}",
                key,
            )


def load(settings: DataSettings) -> Source:
    """Loads the examples of the folder; call `check` first.

    Raises:
      ConfigError: names the file, its content and what is expected.
    """
    folder = _path(settings)
    if (folder / "dataset_info.json").is_file():
        return _tfds(folder, settings)
    names = sorted({name for _, name in _wanted_splits(settings)})
    _check_archives([folder / f"{name}.npz" for name in names if _layout(folder, name) == "npz"])
    whole = {name: _split(folder, name, settings) for name in names}
    where = format_path(folder)
    # From whole splits, so that a slice does not change the model.
    labels = [split["label"] for split in whole.values() if {"image", "label"} <= set(split)]
    facts = {"classes": 1 + max(int(label.max()) for label in labels)} if labels else {}
    size = arrays.mapped_bytes(whole, settings, where=where)
    if not arrays.fits(size):
        return _by_rows(whole, settings, facts, where, size)
    found = arrays.select(whole, settings, where=where)
    train, evaluations = found["train_split"], splits.evals(found)
    for evaluation in evaluations.values():
        check_agreement(train, evaluation, where=where)
    from modetrain.data.source import Source

    description = f"folder {where} ({arrays.format_counts(found)})"
    return Source(kind="folder", description=description, train=train, evals=evaluations, facts=facts)


def _by_rows(
    whole: Mapping[str, Mapping[str, np.ndarray]],
    settings: DataSettings,
    facts: Mapping[str, int],
    where: str,
    size: int,
) -> Source:
    """The splits of memory-mapped arrays that do not fit into memory."""
    from modetrain.data import selection
    from modetrain.data.array_files import ArrayFiles
    from modetrain.data.source import Source

    files = {name: ArrayFiles(given, resize=arrays.resize_batches(given, settings)) for name, given in whole.items()}
    found = {
        key: selection.select(files, key, expression, where) for key, expression in splits.wanted(settings).items()
    }
    train, evaluations = found["train_split"], splits.evals(found)
    for evaluation in evaluations.values():
        check_agreement(train.first(1), evaluation.first(1), where=where)
    counts = arrays.format_sizes({key: split.examples for key, split in found.items()})
    description = f"folder {where} ({counts}; {size / 2**30:.1f} GiB do not fit into memory: read by rows)"
    return Source(kind="folder", description=description, train=train, evals=evaluations, facts=facts)


def _path(settings: DataSettings) -> Path:
    if not settings.path:
        other = "data=mnist" if settings.name == "folder" else "data.source=auto"  # data=folder is no data set of TFDS
        raise ConfigError(
            f"data.source=folder with data.path=null: no folder to read. Type data.path=FOLDER, or {other}."
        )
    folder = Path(os.path.expanduser(settings.path))
    if not folder.is_dir():
        seen = "is a file" if folder.exists() else "does not exist"
        advice = (
            data_override("path", format_path(folder.parent)) if folder.is_file() else "data.path=FOLDER of your data"
        )
        raise ConfigError(f"data.path={format_path(folder)}: that folder {seen}. Type {advice}.")
    return folder.resolve()


def _wanted_splits(settings: DataSettings) -> list[tuple[str, str]]:
    """The (key, split) pairs of the settings."""
    return [
        (key, name) for key, expression in splits.wanted(settings).items() for name in splits.split_names(expression)
    ]


def _layout(folder: Path, name: str) -> str | None:
    """How the split is stored: `npz`, `npy` or `tfrecord`; None if it is not there."""
    if (folder / f"{name}.npz").is_file():
        return "npz"
    if (folder / name).is_dir() and visible(folder / name, "*.npy"):
        return "npy"
    return "tfrecord" if _record_files(folder, name) else None


def _record_files(folder: Path, name: str) -> list[Path]:
    # `trainval.tfrecord` does not belong to the split `train`.
    pattern = re.compile(rf"{re.escape(name)}([-_.\d].*)?\.tfrecord.*")
    return [file for file in visible(folder, "*.tfrecord*") if pattern.fullmatch(file.name) and file.is_file()]


def _splits(folder: Path) -> list[str]:
    """Names of the splits that the folder holds."""
    stems = {entry.name.split(".")[0].split("-")[0] for entry in visible(folder)}
    return sorted(stem for stem in stems if stem and _layout(folder, stem))


def _split(folder: Path, name: str, settings: DataSettings) -> dict[str, np.ndarray]:
    layout = _layout(folder, name)
    if layout == "npz":
        file = folder / f"{name}.npz"
        given = _npz(file)
        files = dict.fromkeys(given, str(file))
    elif layout == "npy":
        paths = {file.stem: file for file in visible(folder / name, "*.npy")}
        given = {key: _npy(file) for key, file in paths.items()}
        files = {key: str(file) for key, file in paths.items()}
    else:
        shards = _record_files(folder, name)
        given = dict(_records(shards, settings))
        files = dict.fromkeys(given, str(shards[0]))
    if not given:
        raise ConfigError(
            f"{folder / f'{name}.npz'}: holds no array. Expected: arrays of any names, one row per example."
        )
    return arrays.validate(given, files=files)


def _check_archives(files: list[Path]) -> None:
    """Raises ConfigError if the archives do not fit into memory together: each is read whole."""
    advice = (
        "An archive is read whole: save each of its arrays as NAME.npy in a folder of the split's name, where rows are read as "
        "they are needed."
    )
    together = 0
    for file in files:
        with _readable(file, _ARCHIVE), zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        together += size
        arrays.check_memory(size, "its arrays", str(file), advice=advice)
    arrays.check_memory(
        together, "the arrays of its archives", format_path(files[0].parent) if files else "", advice=advice
    )


def _npz(file: Path) -> dict[str, np.ndarray]:
    with _readable(file, _ARCHIVE), np.load(file, allow_pickle=False) as archive:
        return {name: aligned.copy(archive[name]) for name in archive.files}


def _npy(file: Path) -> np.ndarray:
    with _readable(file, "one array of numbers, as np.save(file, array) writes it"):
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    if not array.dtype.isnative:  # it is converted whole
        arrays.check_memory(
            array.nbytes, f"its {array.dtype} array", str(file), advice="Save it in this machine's byte order."
        )
    return array


@contextlib.contextmanager
def _readable(file: Path, expected: str) -> Iterator[None]:
    """Within this an error of reading the file becomes a ConfigError."""
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(file, error, expected) from error


def _unreadable(file: Path, error: Exception, expected: str) -> ConfigError:
    seen = "arrays of Python objects" if "allow_pickle" in str(error) else str(error).split("\n")[0].rstrip(".")
    return ConfigError(f"{file}: cannot be read ({seen}). Expected: {expected}.")


def _records(files: list[Path], settings: DataSettings) -> Mapping[str, np.ndarray]:
    """Reads TFRecords of `tf.train.Example`; the first record shows how all of them are stored."""
    import tensorflow as tf

    from modetrain.data.sources import records

    shards = [records.Shard(file=str(file), skip=0, take=records.count_records(str(file))) for file in files]
    shards = [shard for shard in shards if shard.take]
    if not shards:
        raise ConfigError(f"{files[0]}: holds no record. Expected: tf.train.Example records, one per example.")
    first = next(iter(shards[0].records())).numpy()
    try:
        held = dict(tf.train.Example.FromString(first).features.feature)
    except Exception as error:  # protobuf's DecodeError; its module differs between versions
        raise ConfigError(f"{shards[0].file}: record 0 is no tf.train.Example ({error}).") from error
    kinds = {key: feature.WhichOneof("kind") for key, feature in held.items()}
    raw = {"height", "width"} <= set(kinds)
    if kinds.get("image") != "bytes_list" or kinds.get("label") != "int64_list":
        raise ConfigError(
            f"{shards[0].file}: record 0 holds {', '.join(f'{key} ({kind})' for key, kind in sorted(kinds.items()))}. "
            "Expected: `image` (bytes: PNG, JPEG, or raw uint8 with int64 `height`, `width` and `channels`) and "
            "`label` (one int64)."
        )
    one = tf.io.FixedLenFeature((), tf.int64)
    sides = {"height": one, "width": one, "channels": tf.io.FixedLenFeature((), tf.int64, default_value=1)}

    def has_16_bits(encoded):
        head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=25)
        return tf.reduce_all(tf.gather(head, [1, 2, 3, 24]) == tf.constant([*b"PNG", 16], tf.uint8))

    bits = 16 if not raw and bool(has_16_bits(held["image"].bytes_list.value[0])) else 8

    def decode(parsed):
        encoded = parsed["image"]
        alike = has_16_bits(encoded) == (bits == 16)
        what = f"record 0 has {bits} bits a channel and this one has not: save all alike"
        if tf.executing_eagerly() and not alike:  # while the record is searched
            raise ValueError(what)
        with tf.control_dependencies([tf.debugging.Assert(alike, [what])]):
            return tf.io.decode_image(encoded, dtype=tf.as_dtype(f"uint{bits}"), expand_animations=False)

    def decode_raw(parsed):
        return tf.reshape(tf.io.decode_raw(parsed["image"], tf.uint8), [parsed[side] for side in sides])

    form = records.Format(
        features={"image": tf.io.FixedLenFeature((), tf.string), "label": one, **(sides if raw else {})},
        image=decode_raw if raw else decode,
        label="label",
    )
    return records.read(shards, form, settings, where=format_path(files[0].parent))


def _tfds(folder: Path, settings: DataSettings) -> Source:
    import tensorflow_datasets as tfds

    from modetrain.data.sources import network
    from modetrain.data.sources import tfds as prepared

    try:
        with network.silence_logs():
            builder = tfds.builder_from_directory(folder)
            gap = prepared.find_gap(builder)
    except Exception as error:  # TFDS raises anything for a broken file
        raise ConfigError(
            f"data.path={settings.path}: TFDS cannot read the data set in {format_path(folder)} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}). Prepare or copy it again."
        ) from error
    if gap:
        raise ConfigError(f"data.path={settings.path}: only half prepared, {gap}. Prepare or copy it again.")
    where = format_path(folder)
    return prepared.read(builder, settings, kind="folder", where=where, description=f"folder {where}, prepared by TFDS")
