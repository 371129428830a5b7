"""TFDS data sets by name: reads prepared data, downloads other data, and fails within seconds offline.

With `data.source=auto` and MNIST, the bundled sample replaces TFDS's data if that is not available, and says why.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.read_only_builder import ReadOnlyBuilder
from tensorflow_datasets.core.registered import DatasetNotFoundError

from modetrain.data.source import Source
from modetrain.data.sources import arrays, names, network, records, splits
from modetrain.data.sources.agreement import check_agreement
from modetrain.data.sources.messages import BUNDLED, data_override, format_path
from modetrain.errors import ConfigError, closest, did_you_mean
from modetrain.settings import DataSettings

log = logging.getLogger(__name__)


class Unavailable(Exception):
    """The data set exists, but its data is not available; the message is a clause that says why."""


def load(settings: DataSettings) -> Source:
    """Loads TFDS's data set, or the bundled sample instead if `data.source=auto` allows that."""
    try:
        with network.silence_logs():
            builder, how = _prepare(settings)
    except Unavailable as why:
        if settings.source == "auto" and settings.name == BUNDLED:
            from modetrain.data.sources import bundled

            return bundled.load(settings, because=str(why))
        there = "" if settings.download else "data.download=true to download it, or "
        instead = (
            "data.source=bundled for the bundled sample of 5,000 digits"
            if settings.name == BUNDLED
            else "data=mnist, which has a bundled sample"
        )
        raise ConfigError(
            f"data.name={settings.name} data.source={settings.source}: {why}. Type {there}data.dir=DIR for a folder "
            f"in which TFDS has prepared it, or {instead}."
        ) from why
    where = f"TFDS {_full_name(builder)}"
    return read(builder, settings, kind="tfds", where=where, description=f"{where}, {how}")


def read(builder: Any, settings: DataSettings, *, kind: str, where: str, description: str) -> Source:
    """The splits of a prepared data set: decoded if it is image classification, else read by record."""
    expressions = splits.wanted(settings)
    for key, expression in expressions.items():
        _check_split(builder, key, expression, where)
    if (names_of := image_and_label(builder)) is None:
        from modetrain.data.sources import tfds_records

        return tfds_records.read(builder, settings, kind=kind, where=where, description=description)
    image, label = names_of
    with network.silence_logs():
        decoded = {key: _decode(builder, split, image, label, settings, where) for key, split in expressions.items()}
    train, evaluations = decoded["train_split"], splits.evals(decoded)
    for evaluation in evaluations.values():
        check_agreement(train, evaluation, where=where)
    classes = builder.info.features[label].num_classes
    return Source(
        kind=kind,
        description=f"{description} ({arrays.format_counts(decoded)})",
        train=train,
        evals=evaluations,
        facts={"classes": classes or 1 + max(int(split["label"].max()) for split in decoded.values())},
    )


def image_and_label(builder: Any) -> tuple[str, str] | None:
    """Names of the features that hold the image and the class; None if it is not image classification."""
    features = dict(builder.info.features)
    supervised = builder.info.supervised_keys
    if isinstance(supervised, tuple) and len(supervised) == 2 and all(isinstance(key, str) for key in supervised):
        image, label = supervised
    else:
        # TFDS does not name them: there must be exactly one image and one class.
        images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
        image, label = (images[0], labels[0]) if len(images) == len(labels) == 1 else ("", "")
    if not (
        isinstance(features.get(image), tfds.features.Image)
        and isinstance(features.get(label), tfds.features.ClassLabel)
    ):
        return None
    return image, label


def _check_split(builder: Any, key: str, expression: str, where: str) -> None:
    known = list(builder.info.splits)
    for name in splits.split_names(expression):
        if name not in known and name != "all":
            raise splits.unknown_split(key, expression, name, known, where)
    try:
        left = builder.info.splits[expression].num_examples
    except Exception as error:  # TFDS raises several classes for an expression that it cannot read
        raise ConfigError(
            f"data.{key}={expression}: TFDS cannot read it ({str(error).splitlines()[-1]}). "
            f"Type {data_override(key, known[0])} or {data_override(key, known[0] + '[:90%]')}."
        ) from error
    if not left:
        raise ConfigError(
            f"data.{key}={expression}: no example is left of {where}. Type {data_override(key, splits.split_names(expression)[0])}."
        )


def _decode(
    builder: Any, split: str, image: str, label: str, settings: DataSettings, where: str
) -> dict[str, np.ndarray]:
    """Decodes `image` and `label` of one split, in the order on disk."""
    import tensorflow as tf

    info = builder.info.splits[split]
    where = f"{where}, split {split}"
    if builder.info.file_format.value != "tfrecord":
        raise ConfigError(
            f"{where}: prepared as {builder.info.file_format.value}, and only TFRecord files are read. "
            f"Prepare it again with `tfds build {settings.name} --file_format=tfrecord`."
        )
    feature = builder.info.features[image]
    form = records.Format(
        features={image: tf.io.FixedLenFeature((), tf.string), label: tf.io.FixedLenFeature((), tf.int64)},
        image=lambda parsed: feature.decode_example(parsed[image]),
        label=label,
        fixed=None not in feature.shape,
    )
    shards = [
        records.Shard(
            file=os.fspath(part.filename),
            skip=part.skip,
            take=part.take if part.take >= 0 else part.examples_in_shard - part.skip,
        )
        for part in info.file_instructions
    ]
    read = records.read(shards, form, settings, where=where)
    lowest = int(read["label"].min())
    if lowest < 0:
        raise ConfigError(f"{where}: has the label {lowest}, so its examples are unlabelled. Choose another split.")
    return {"image": read["image"], "label": read["label"].astype(np.int32)}


def _prepare(settings: DataSettings) -> tuple[Any, str]:
    """The builder of a data set with all its files, and how the files were made; downloads them if needed.

    Raises:
      ConfigError: TFDS has no such data set.
      Unavailable: it is not prepared, and cannot be prepared.
    """
    builder = _builder(settings)
    gap = find_gap(builder)
    if gap is None:
        return builder, f"prepared in {format_path(builder.data_dir)}"
    name = _full_name(builder)
    root = format_path(builder.data_dir_root)
    if gap:
        # Not repaired automatically: TFDS would first delete the folder, and the files may be on a mount that is missing now.
        raise Unavailable(
            f"TFDS {name} is only half prepared, {gap}; delete {format_path(builder.data_dir)} to prepare it again"
        )
    if isinstance(builder, ReadOnlyBuilder):
        raise Unavailable(f"TFDS {name} is not prepared in {root}, and TFDS has no code to prepare it")
    if not settings.download:
        raise Unavailable(f"TFDS {name} is not prepared in {root}, and data.download=false")
    offline = network.why_unreachable(builder.url_infos or ())
    if offline and not os.path.isdir(os.path.join(builder.data_dir_root, "downloads")):
        raise Unavailable(f"TFDS {name} is not prepared in {root}, and {offline}")
    if not offline:
        hosts = sorted({urlsplit(url).netloc for url in builder.url_infos or ()})
        log.info(f"downloading {name}{' from ' + hosts[0] if len(hosts) == 1 else ''} and preparing it in {root}")
    why = _download(builder, online=not offline)
    builder = _builder(settings)
    # The disk decides, not the attempt: another process may have prepared it at the same time.
    if find_gap(builder) is None:
        done = "prepared from earlier downloads" if offline else "downloaded and prepared"
        return builder, f"{done} in {format_path(builder.data_dir)}"
    why = offline or why or "preparing it left no files"
    raise Unavailable(f"TFDS {name} is not prepared in {root}, and {why}")


def _builder(settings: DataSettings) -> Any:
    """TFDS's builder; makes no files and uses no network."""
    try:
        return tfds.builder(settings.name, data_dir=names.data_dir(settings))
    except DatasetNotFoundError as error:
        raise names.unknown_name(settings, names.registered_names()) from error
    except ImportError as error:
        raise ConfigError(
            f"data.name={settings.name}: TFDS has the data set, and its code needs a package that is not installed "
            f"({error}). Install it with pip, or type data.name={BUNDLED}."
        ) from error
    except Exception as error:  # for a wrong configuration or version, or a folder that TFDS cannot read
        base = re.split(r"[/:]", settings.name)[0]
        configs = sorted(tfds.builder_cls(base).builder_configs) if base in names.registered_names() else []
        config = re.sub(r":.*", "", settings.name).partition("/")[2]
        if config and config not in configs:
            meant = closest(config, configs)
            some = f"one of {', '.join(configs[:12])}" if configs else "none"
            raise ConfigError(
                f"data.name={settings.name}: TFDS {base} has no configuration {config!r}; it has {some}."
                f"{did_you_mean(config, configs)} Type data.name={base}{'/' + meant if meant else ''}."
            ) from error
        if ":" in settings.name:
            raise ConfigError(
                f"data.name={settings.name}: {_last_clause(error)}. Type data.name={settings.name.split(':')[0]}."
            ) from error
        raise Unavailable(
            f"TFDS cannot read {settings.name} in {format_path(names.data_dir(settings))} ({_last_clause(error)})"
        ) from error


def find_gap(builder: Any) -> str | None:
    """What is missing of the data set's files, in words; None if they are complete, "" if there are none."""
    folder = builder.data_path
    if not folder.exists():
        return ""
    if not builder.is_prepared() or not builder.info.splits:
        return f"{format_path(folder)} has no dataset_info.json with its splits"
    files = [file for split in builder.info.splits.values() for file in split.filepaths]
    missing = [file for file in files if not file.exists() or not file.stat().length]
    if missing:
        several = f"{len(missing)} of {len(files)} files are" if len(missing) > 1 else f"{missing[0].name} is"
        return f"{several} missing or empty in {format_path(folder)}"
    return None


def _download(builder: Any, *, online: bool) -> str | None:
    """Downloads and prepares with TFDS, with its progress bars on a terminal. Returns why it failed, or None."""
    tfds.display_progress_bar(sys.stderr.isatty())
    try:
        # TFDS also prints what it does; the caller has logged one line.
        earlier_only = contextlib.nullcontext() if online else _no_downloads()
        with network.bound_requests(online=online), earlier_only, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # a download, a checksum, a disk, a missing package: preparing has failed
        if isinstance(error, tfds.download.DownloadError):
            return f"the download failed: {_last_clause(error)}"
        if type(error).__name__ == "NonMatchingChecksumError":
            return (
                "the downloaded file is not the data set (wrong checksum; does the network answer with a login page?)"
            )
        return f"preparing it failed: {network.summarize(error)}"
    finally:
        tfds.display_progress_bar(True)
    return None


@contextlib.contextmanager
def _no_downloads() -> Iterator[None]:
    """Within this TFDS fails as soon as it needs a file that is not there.

    TFDS stops at the first file that fails. Its threads for other files would try for minutes after that, no longer within
    `bound_requests`, and keep the process alive.
    """
    start = downloader._Downloader.download

    def refuse(*args: Any, **options: Any) -> Any:
        raise ConnectionError("no network")

    downloader._Downloader.download = refuse
    try:
        yield
    finally:
        downloader._Downloader.download = start


def _full_name(builder: Any) -> str:
    """`mnist 3.0.1`, `emnist/letters 3.1.0`."""
    config = f"/{builder.builder_config.name}" if builder.builder_config else ""
    return f"{builder.name}{config} {builder.version}"


def _last_clause(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (lines[0] if lines else type(error).__name__).rstrip(".: ")
    text = text.split('}": ')[-1]  # without the description of what TFDS constructs; the caller names it
    return text if len(text) <= 200 else text[:197] + "..."
