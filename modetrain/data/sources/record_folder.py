"""`data=records`: a folder of TFRecord files with any features (see docs/your-data.md)."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from modetrain.data.sources.messages import data_override, format_path
from modetrain.errors import ConfigError
from modetrain.files.paths import visible
from modetrain.schema import Bounds

if TYPE_CHECKING:
    from modetrain.data.record_index import RecordIndex
    from modetrain.data.source import Splits

log = logging.getLogger(__name__)

_USUAL = ("train", "validation", "val", "valid", "eval", "dev", "test")
_SEARCHED = 16  # records that are looked at for features


def records(
    path: str | None,
    features: Mapping[str, Any] | None = None,
    classes: Annotated[int, Bounds(at_least=1)] | None = None,
    image_size: Sequence[int] | None = None,
    on_error: Literal["stop", "skip"] = "stop",
) -> Splits:
    """The splits of a folder of TFRecord files.

    Args:
      path: the folder.
      features: by name how a feature is stored; None reads the `features.json` of TFDS, or else the first records.
      classes: the number of classes, for models that ask for it; None is what TFDS says.
      image_size: [height, width] that images are resized to; None where all have one size.
      on_error: what is done where a record cannot be decoded.

    Raises:
      ConfigError: there are no such files, one is damaged, or the features are others.
    """
    folder = _folder(path)
    where = format_path(folder)
    from modetrain.data.record_files import RecordFiles  # with TensorFlow
    from modetrain.data.record_index import RecordIndex
    from modetrain.data.source import Splits

    found = {name: RecordIndex.of(files) for name, files in _splits(folder).items()}
    for name, index in found.items():
        if not len(index):
            raise ConfigError(f"{where}: the split {name} holds no record. Write it again, or remove its files.")
    facts: dict[str, Any] = {}
    decode_batch = None
    size = None if image_size is None else (image_size[0], image_size[1])
    if features is None and (folder / "features.json").is_file():
        decode, facts = of_tfds(_features_of_tfds(folder), size, next(iter(found.values())))
    else:
        decode, decode_batch = _of_examples(features, found, size, where)
    if classes is not None:
        facts["classes"] = classes
    splits = {
        name: RecordFiles(index, decode, decode_batch, name=f"the split {name} of {where}", on_error=on_error)
        for name, index in found.items()
    }
    return Splits(splits, description=f"records in {where}", **facts)


def _folder(path: str | None) -> Path:
    if path is None:
        raise ConfigError("data.path=null: no folder to read records from. Type data.path=FOLDER.")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        seen = "is a file" if folder.exists() else "does not exist"
        fix = data_override("path", format_path(folder.parent)) if folder.is_file() else "data.path=FOLDER"
        raise ConfigError(f"data.path={format_path(folder)}: that folder {seen}. Type {fix}.")
    return folder.resolve()


def _splits(folder: Path) -> dict[str, list[Path]]:
    """The files of each split; files whose names have no split are `train` if no name has one."""
    names = _USUAL
    if (folder / "dataset_info.json").is_file():
        held = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")).get("splits", ())
        names = (*(split["name"] for split in held), *_USUAL)
    files: dict[str, list[Path]] = {}
    for file in visible(folder, "*.tfrecord*"):
        stem = file.name.split(".tfrecord")[0]
        parts = re.split(r"[-_.]", re.sub(r"[-_.]?\d+([-_]of[-_]\d+)?$", "", stem))
        split = next((name for name in names if stem.endswith(f"-{name}") or name in parts), "")
        if file.is_file():
            files.setdefault(split, []).append(file)
    if not files:
        held = ", ".join(entry.name for entry in visible(folder)[:8]) or "nothing"
        raise ConfigError(
            f"data.path={format_path(folder)}: no TFRecord file in it; it holds {held}. Expected: train*.tfrecord*, "
            "test*.tfrecord*, or files without the names of splits."
        )
    if "" in files and len(files) > 1:
        raise ConfigError(
            f"data.path={format_path(folder)}: {files[''][0].name} names no split, and other files there do. Name it "
            f"train-{files[''][0].name}, or move it to another folder."
        )
    order = sorted(files, key=lambda name: names.index(name) if name else 0)
    return {name or "train": files[name] for name in order}


def _of_examples(
    given: Mapping[str, Any] | None, found: Mapping[str, RecordIndex], size: tuple[int, int] | None, where: str
) -> tuple[Callable[[Any], dict[str, Any]], Callable[[Any], dict[str, Any]]]:
    """Decodes a `tf.train.Example`, and several of them."""
    import tensorflow as tf

    from modetrain.data import record_features
    from modetrain.data.split import flatten, length_name

    first = {name: [index.read(row) for row in range(min(_SEARCHED, len(index)))] for name, index in found.items()}
    if given is None:
        train = next(iter(first))
        features = record_features.find(first[train], f"the split {train} of {where}")
        written = ", ".join(f"{n}: '{f}'" if "[" in str(f) else f"{n}: {f}" for n, f in features.items())
        log.info(
            f"data: features found in the first {len(first[train])} records of {where}; if they are others, type "
            f'"data.features={{{written}}}" with the right ones'
        )
    else:
        features = {n: record_features.Feature.parse(written, n) for n, written in flatten(given).items()}
    for name, contents in first.items():
        record_features.check(features, contents, f"the split {name} of {where}")
    index = next(iter(found.values()))
    images = {}
    for name, feature in features.items():
        if feature.form == "image":
            parsed = tf.io.parse_single_example(index.read(0), {name: feature.spec})
            images[name] = _image_format(parsed[name], size, index.describe(0))

    def decode(content: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_single_example(content, {n: f.spec for n, f in features.items()})
        values = {n: f.convert(parsed[n]) for n, f in features.items()}
        return values | {n: _decode_image(form, values[n]) for n, form in images.items()}

    def decode_batch(contents: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(contents, {n: f.batch_spec for n, f in features.items()})
        found = {}
        for name, feature in features.items():
            found[name], lengths = feature.of_batch(parsed[name])
            if lengths is not None and length_name(name) not in features:
                found[length_name(name)] = lengths
        for name, form in images.items():  # one after the other: several batches are made at once
            spec = tf.TensorSpec(form.shape, form.dtype)
            found[name] = tf.map_fn(form.decode, found[name], fn_output_signature=spec, parallel_iterations=1)
        return found

    return decode, decode_batch


def _features_of_tfds(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.features.FeaturesDict.from_config(str(folder))
    except Exception as error:  # TFDS raises anything for a broken file
        raise ConfigError(
            f"{format_path(folder / 'features.json')}: TFDS cannot read it ({str(error).splitlines()[0]}). Prepare the data "
            "again, or say what records have by data.features={...}."
        ) from error


def of_tfds(
    features: Any, size: tuple[int, int] | None, index: RecordIndex
) -> tuple[Callable[[Any], dict[str, Any]], dict[str, Any]]:
    """Decodes what TFDS wrote with its features, and what it knows of the classes.

    Args:
      features: TFDS's.
      size: [height, width] that images of varying size are resized to.
      index: the records of a split, of which the first is looked at.
    """
    import tensorflow_datasets as tfds

    # Images of any size are decoded here, to one size.
    open_images = [n for n, f in features.items() if isinstance(f, tfds.features.Image) and None in f.shape]
    decoders = {name: tfds.decode.SkipDecoding() for name in open_images}
    images: dict[str, Any] = {}
    if open_images:
        whole = features.deserialize_example(index.read(0), decoders=decoders)
        images = {name: _image_format(whole[name], size, index.describe(0)) for name in open_images}
    labels = [feature for feature in features.values() if isinstance(feature, tfds.features.ClassLabel)]
    facts = {}
    if len(labels) == 1 and labels[0].num_classes:
        facts = {"classes": labels[0].num_classes, "class_names": tuple(labels[0].names)}

    def decode(content: Any) -> dict[str, Any]:
        found = dict(features.deserialize_example(content, decoders=decoders))
        return found | {name: _decode_image(form, found[name]) for name, form in images.items()}

    return decode, facts


def _image_format(content: Any, size: tuple[int, int] | None, where: str) -> Any:
    from modetrain.data.image_format import Format

    return Format.find(content, file=where, size=size, channels=None, nearest=False)


def _decode_image(form: Any, content: Any) -> Any:
    import tensorflow as tf

    if tf.executing_eagerly():  # one record is read, to say what is wrong
        form.check(content, "its image")
    return form.decode(content)
