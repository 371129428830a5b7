"""Decodes `tf.train.Example` records into arrays, thousands at a time: TFDS's files and the user's."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.sources import arrays
from modetrain.errors import ConfigError
from modetrain.settings import DataSettings

# Bytes of decoded images in one batch; several batches are decoded at once.
_BATCH_BYTES = 2**23


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """Part of a TFRecord file: `take` records after the first `skip`."""

    file: str
    skip: int
    take: int

    def records(self) -> tf.data.Dataset:
        """Serialized examples, scalar strings."""
        compression = "GZIP" if self.file.endswith(".gz") else ""
        records = tf.data.TFRecordDataset(self.file, compression, buffer_size=2**20)
        return records.skip(self.skip).take(self.take) if self.skip or self.take >= 0 else records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format:
    """How an example is stored.

    Attributes:
      features: the features for `tf.io.parse_example`.
      image: returns the image [height, width, channels] of one parsed example.
      label: name of the feature that holds the label, an int64.
      fixed: whether all images are known to have one size, so that whole batches can be resized.
    """

    features: Mapping[str, Any]
    image: Callable[[Mapping[str, tf.Tensor]], tf.Tensor]
    label: str
    fixed: bool = False


def count_records(file: str) -> int:
    """Number of records in a file; raises ConfigError if it is cut off or no TFRecord file."""
    try:
        batches = Shard(file=file, skip=0, take=-1).records().batch(1024)
        return sum(len(batch) for batch in batches.as_numpy_iterator())
    except tf.errors.OpError as error:
        raise ConfigError(
            f"{file}: not a whole TFRecord file ({_first_line(error)}). Write or copy it again; "
            "only files whose name ends in .gz are read as compressed."
        ) from error


def read(shards: Sequence[Shard], form: Format, settings: DataSettings, *, where: str) -> dict[str, np.ndarray]:
    """Decodes the examples of the shards, in order: `image` [n, height, width, channels] and `label` int32 [n].

    Raises:
      ConfigError: a record is damaged, lacks a feature or does not decode, images differ in size and
        `data.image_size` does not make them equal, or they do not fit into memory.
    """
    total = sum(shard.take for shard in shards)
    size = settings.image_size

    def decode_one(parsed):
        image = form.image(parsed)
        return arrays.resize_images(image, size) if size and not form.fixed else image

    # Our own threads call it on whole batches. `Dataset.map` would run image by image, thirty times slower, while
    # `tf.data.experimental.enable_debug_mode()` is on for the user's functions.
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string)])
    def decode(serialized):
        with tf.device("CPU:0"):
            parsed = tf.io.parse_example(serialized, dict(form.features))
            # One image at a time: the threads run in parallel, and large images must not fill the memory.
            images = tf.map_fn(decode_one, parsed, fn_output_signature=signature, parallel_iterations=1)
            return arrays.resize_images(images, size) if size and form.fixed else images, parsed[form.label]

    try:
        first = form.image(tf.io.parse_single_example(next(iter(shards[0].records())), dict(form.features)))
        height, width, channels = first.numpy().shape
        shape = (*size, channels) if size else (height, width, channels)
        signature = tf.TensorSpec(first.shape if form.fixed else shape, first.dtype)
        image = arrays.allocate((total, *shape), first.dtype.as_numpy_dtype, where=where)
        label = np.empty(total, np.int64)
        at = 0
        for images, labels in _map_in_threads(decode, _batches(shards, _BATCH_BYTES * total // max(1, image.nbytes))):
            image[at : at + len(labels)], label[at : at + len(labels)] = images.numpy(), labels.numpy()
            at += len(labels)
    except (tf.errors.OpError, ValueError, StopIteration) as error:
        raise _explain(error, shards, form, settings, where=where) from error
    if at != total:
        raise ConfigError(f"{where}: {at:,} examples were read, {total:,} were expected. Prepare or copy it again.")
    return {"image": image, "label": label}


def _batches(shards: Sequence[Shard], size: int) -> Iterator[tf.Tensor]:
    """Batches of the serialized examples of all shards, in order, each of bounded size."""
    for shard in shards:
        yield from shard.records().batch(min(512, max(1, size))).prefetch(2)


def _map_in_threads(function: Callable[[Any], Any], inputs: Iterator[Any]) -> Iterator[Any]:
    """`map(function, inputs)`, in order, with a few results computed ahead."""
    workers = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        ahead: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
        for value in inputs:
            ahead.append(pool.submit(function, value))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _explain(
    error: Exception, shards: Sequence[Shard], form: Format, settings: DataSettings, *, where: str
) -> ConfigError:
    """The error that names the unreadable record. It reads them one by one, which is slow, and only after a failure."""
    usual, usual_at = None, ""
    for shard in shards:
        name, index = Path(shard.file).name, shard.skip - 1
        records = iter(shard.records())
        while True:
            index += 1
            try:
                serialized = next(records)
            except StopIteration:
                break
            except tf.errors.OpError as damage:
                return ConfigError(
                    f"{shard.file}: damaged at record {index} ({_first_line(damage)}). Write, copy or prepare it again."
                )
            try:
                shape = tuple(form.image(tf.io.parse_single_example(serialized, dict(form.features))).shape)
            except (tf.errors.OpError, ValueError) as damage:
                example = tf.train.Example.FromString(serialized.numpy())
                seen = ", ".join(
                    sorted(f"{key} ({value.WhichOneof('kind')})" for key, value in example.features.feature.items())
                )
                return ConfigError(
                    f"{shard.file}: record {index} holds {seen or 'no feature'} and cannot be decoded "
                    f"({_first_line(damage)}). docs/your-data.md, under TFRecords, says what is expected."
                )
            if usual is None:
                usual, usual_at = shape, f"record {index} of {name}"
            elif shape[2:] != usual[2:] or (shape != usual and settings.image_size is None):
                sizes = f"{list(usual)} in {usual_at}, {list(shape)} in record {index} of {name}"
                if shape[2:] != usual[2:]:
                    return ConfigError(
                        f"{where}: images differ in channels ({sizes}). Save all of them with the same channels."
                    )
                return ConfigError(
                    f"{where}: images differ in size ({sizes}) and data.image_size is not set, so they cannot be "
                    "batched. Type 'data.image_size=[64,64]', or another height and width."
                )
    return ConfigError(f"{where}: cannot be read ({_first_line(error)}). Prepare or copy it again.")


def _first_line(error: Exception) -> str:
    """TensorFlow's message without the names of its kernels."""
    text = str(error).strip().split("\n")[0]
    text = text.split("}} ")[-1].split(" [Op:")[0]
    return text if len(text) <= 160 else text[:157] + "..."
