"""Checks, resizes and slices the host arrays of every source, within the memory of the machine."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modetrain.data.sources.messages import data_override
from modetrain.data.sources.splits import split_names, unknown_split
from modetrain.errors import ConfigError
from modetrain.settings import DataSettings

Arrays = Mapping[str, np.ndarray]

# Training holds a second copy as tensors; the rest is for the model and prefetched batches.
_SHARE_OF_MEMORY = 0.4
_RESIZE_AT_ONCE = 256
_SLICE = re.compile(r"(?P<name>[\w-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def select(splits: Mapping[str, Arrays], settings: DataSettings, *, where: str) -> tuple[Arrays, Arrays]:
    """Applies the split expressions to whole splits; returns training and evaluation arrays, resized.

    Args:
      splits: arrays by split name.
      where: the data set's name in messages.
    """
    train = resize(_slice("train_split", settings.train_split, splits, where), settings, where=where)
    evaluation = resize(_slice("eval_split", settings.eval_split, splits, where), settings, where=where)
    return train, evaluation


def _slice(key: str, expression: str, splits: Mapping[str, Arrays], where: str) -> Arrays:
    """The examples that a split expression names: views of the whole arrays, or copies where it joins splits."""
    parts = []
    for part in expression.split("+"):
        match = _SLICE.fullmatch(part.strip())
        if not match:
            raise ConfigError(
                f"data.{key}={expression}: {part.strip()!r} cannot be read. "
                f"Type {data_override(key, 'train')}, {data_override(key, 'train[:90%]')} or "
                f"{data_override(key, 'train[100:200]')}."
            )
        if match["name"] not in splits:
            raise unknown_split(key, expression, match["name"], list(splits), where)
        whole = splits[match["name"]]
        count = len(whole["label"])
        start, stop = (_boundary(match[side], count) for side in ("start", "stop"))
        parts.append({name: array[start:stop] for name, array in whole.items()})
    if len(parts) > 1 and any(set(part) != set(parts[0]) for part in parts):
        held = " and ".join("{" + ", ".join(sorted(part)) + "}" for part in parts)
        raise ConfigError(
            f"data.{key}={expression}: splits with different arrays, {held}, cannot be joined. "
            f"Type {data_override(key, 'train')}."
        )
    out = parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if len(out["label"]) == 0:
        raise ConfigError(
            f"data.{key}={expression}: no example is left of {where}. Type {data_override(key, split_names(expression)[0])}."
        )
    return out


def _boundary(text: str | None, count: int) -> int | None:
    """One end of a slice; percentages are rounded to the closest example, as in TFDS."""
    if text is None:
        return None
    return round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)


def validate(given: Mapping[str, np.ndarray], *, files: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Checks the arrays of one split and brings them into the trainer's form; memory-mapped images stay memory-mapped.

    Args:
      given: arrays by name: `image` and `label`, and any others with the same first dimension.
      files: each array's file by name, for messages.

    Raises:
      ConfigError: names the file, its content and what is expected.
    """
    # TensorFlow takes only the byte order of the machine.
    given = {
        name: array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        for name, array in given.items()
    }
    image, label = given["image"], given["label"]
    if image.ndim == 3:
        image = image[..., np.newaxis]
    if image.ndim != 4 or image.dtype.kind not in "uif" or image.dtype.itemsize > 8 or 0 in image.shape:
        raise _unfit("image", given, files, "numbers of shape [n, height, width] or [n, height, width, channels]")
    if label.ndim != 1 or label.dtype.kind not in "ui":
        one_hot = label.ndim == 2 and label.shape[1] > 1
        raise _unfit(
            "label", given, files, "integers of shape [n]" + (": save label.argmax(axis=1)" if one_hot else "")
        )
    for name, array in given.items():
        if array.ndim == 0 or array.dtype.kind not in "biufc":
            raise _unfit(name, given, files, "numbers, one row per example")
        if len(array) != len(image):
            raise _unfit(name, given, files, f"{len(image):,} rows, as `image` in {files['image']} has")
    lowest, highest = int(label.min()), int(label.max())
    if lowest < 0 or highest > np.iinfo(np.int32).max:
        raise ConfigError(
            f"{files['label']}: labels reach from {lowest} to {highest}. Classes are numbered from 0: remove unlabelled "
            "examples and save the labels as integers in 0..classes-1."
        )
    return {**given, "image": image, "label": np.asarray(label, np.int32)}


def _unfit(name: str, given: Mapping[str, np.ndarray], files: Mapping[str, str], expected: str) -> ConfigError:
    seen = given[name]
    return ConfigError(f"{files[name]}: `{name}` is {seen.dtype} of shape {list(seen.shape)}. Expected: {expected}.")


def check_same_shape(train: Arrays, evaluation: Arrays, *, where: str) -> None:
    """Raises ConfigError if one model cannot take both kinds of images."""
    one, other = train["image"], evaluation["image"]
    if one.shape[1:] == other.shape[1:] and one.dtype == other.dtype:
        return
    sizes = f"{one.dtype} of {_times(one.shape[1:])} and {other.dtype} of {_times(other.shape[1:])}"
    resizable = one.shape[3] == other.shape[3] and one.dtype == other.dtype
    advice = f"Type 'data.image_size=[{one.shape[1]},{one.shape[2]}]'." if resizable else "Save both alike."
    raise ConfigError(f"{where}: training and evaluation images are {sizes}, but one model must take both. {advice}")


def resize(given: Arrays, settings: DataSettings, *, where: str) -> Arrays:
    """Resizes every image to `data.image_size`; the dtype stays."""
    size, image = settings.image_size, given["image"]
    if size is None or image.shape[1:3] == tuple(size):
        return given
    out = allocate((len(image), *size, image.shape[3]), image.dtype, where=where)
    for start in range(0, len(image), _RESIZE_AT_ONCE):
        stop = start + _RESIZE_AT_ONCE
        out[start:stop] = resize_images(np.ascontiguousarray(image[start:stop]), size)
    return {**given, "image": out}


def resize_images(images: Any, size: tuple[int, int]) -> Any:
    """Resizes images [..., height, width, channels] to a tensor [..., *size, channels] of the same dtype.

    Where a side shrinks a pixel is the average of its area, otherwise the interpolation is bilinear.
    """
    import tensorflow as tf

    with tf.device("CPU:0"):  # the images are on the host and stay there
        images = tf.convert_to_tensor(images)
        values = tf.cast(images, tf.float32)
        # Bilinear with antialias=True would do both in one call, but six times slower.
        out = tf.cond(
            tf.reduce_any(tf.shape(images)[-3:-1] > tf.constant(size)),
            lambda: tf.image.resize(values, size, method="area"),
            lambda: tf.image.resize(values, size, method="bilinear"),
        )
        return tf.saturate_cast(out if images.dtype.is_floating else tf.round(out), images.dtype)


def allocate(shape: tuple[int, ...], dtype, *, where: str) -> np.ndarray:
    """Makes an empty array; raises ConfigError if it does not fit into memory."""
    check_memory(
        int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize,
        f"{shape[0]:,} images of {_times(shape[1:])}",
        where,
    )
    return np.empty(shape, dtype)


def check_memory(needed: int, what: str, where: str) -> None:
    """Raises ConfigError if `needed` bytes are more than a fair share of the free memory."""
    free = free_memory()
    if needed > _SHARE_OF_MEMORY * free:
        raise ConfigError(
            f"{where}: {what} are {needed / 2**30:.1f} GiB once decoded; at most {_SHARE_OF_MEMORY:.0%} of the "
            f"{free / 2**30:.1f} GiB of free memory may hold examples. Type 'data.image_size=[32,32]' for smaller images, "
            f"or {data_override('train_split', 'train[:10%]')} for fewer."
        )


def free_memory() -> int:
    """Bytes that can be allocated without swapping, and within the limit of a container."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # not Linux: all of the memory is the best guess
        free = _number("MemAvailable:", Path("/proc/meminfo").read_text(encoding="utf-8")) * 1024
    with contextlib.suppress(OSError, ValueError):  # no control group, or one without a limit
        group = Path("/sys/fs/cgroup")
        # Cached files count as used, but the kernel frees them when memory is needed.
        cached = _number("inactive_file", (group / "memory.stat").read_text(encoding="utf-8"))
        used = int((group / "memory.current").read_text(encoding="utf-8")) - cached
        free = min(free, int((group / "memory.max").read_text(encoding="utf-8")) - used)
    return max(free, 0)


def _number(name: str, text: str) -> int:
    """The number after `name` at the beginning of a line."""
    return int((re.findall(rf"^{name}\s+(\d+)", text, re.MULTILINE) or [""])[0])


def format_counts(train: Arrays, evaluation: Arrays) -> str:
    """`4,000 train, 1,000 test` for a description."""
    return f"{len(train['label']):,} train, {len(evaluation['label']):,} test"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
