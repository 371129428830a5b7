"""Checks, resizes and slices the host arrays of every source, within the memory of the machine."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modetrain.data import aligned
from modetrain.data.sources.agreement import Arrays, format_sides
from modetrain.data.sources.messages import data_override
from modetrain.data.sources.splits import split_names, unknown_split, wanted
from modetrain.errors import ConfigError
from modetrain.settings import DataSettings

# tf.data holds a second copy while it reads; the rest is for the model and prefetched batches.
_SHARE_OF_MEMORY = 0.4
_RESIZE_AT_ONCE = 256
_NAMES = {"train_split": "train", "eval_split": "test"}
_SLICE = re.compile(r"(?P<name>[\w-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def select(splits: Mapping[str, Arrays], settings: DataSettings, *, where: str) -> dict[str, Arrays]:
    """Applies the split expressions to whole splits; returns the arrays by key (see `splits.wanted`), resized.

    Args:
      splits: arrays by split name.
      where: the data set's name in messages.
    """
    parts = _parts(splits, settings, where)
    return {key: resize(_join(found), settings, where=where) for key, found in parts.items()}


def mapped_bytes(splits: Mapping[str, Arrays], settings: DataSettings, *, where: str) -> int:
    """Bytes of memory that `select` takes for memory-mapped arrays."""
    return sum(
        _size_in_memory(array, part.get("image"), settings)
        for found in _parts(splits, settings, where).values()
        for part in found
        for array in part.values()
        if isinstance(array, np.memmap)
    )


def _parts(splits: Mapping[str, Arrays], settings: DataSettings, where: str) -> dict[str, list[Arrays]]:
    return {key: _slice(key, expression, splits, where) for key, expression in wanted(settings).items()}


def _slice(key: str, expression: str, splits: Mapping[str, Arrays], where: str) -> list[Arrays]:
    """The examples that a split expression names: views of the whole arrays, one for each `+`."""
    parts: list[Arrays] = []
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
        count = len(next(iter(whole.values())))
        start, stop = (_boundary(match[side], count) for side in ("start", "stop"))
        parts.append({name: array[start:stop] for name, array in whole.items()})
    if len(parts) > 1 and any(set(part) != set(parts[0]) for part in parts):
        held = " and ".join("{" + ", ".join(sorted(part)) + "}" for part in parts)
        raise ConfigError(
            f"data.{key}={expression}: splits with different arrays, {held}, cannot be joined. "
            f"Type {data_override(key, 'train')}."
        )
    if not any(len(next(iter(part.values()))) for part in parts):
        raise ConfigError(
            f"data.{key}={expression}: no example is left of {where}. Type {data_override(key, split_names(expression)[0])}."
        )
    return parts


def _join(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _size_in_memory(array: np.ndarray, image: np.ndarray | None, settings: DataSettings) -> int:
    """Bytes of an array once it is read and resized."""
    size = settings.image_size
    if size is None or image is None or not _goes_with(array, image):
        return array.nbytes
    return array.nbytes // (image.shape[1] * image.shape[2]) * size[0] * size[1]


def _boundary(text: str | None, count: int) -> int | None:
    """One end of a slice; percentages are rounded to the closest example, as in TFDS."""
    if text is None:
        return None
    return round(int(text[:-1]) * count / 100) if text.endswith("%") else int(text)


def validate(given: Mapping[str, np.ndarray], *, files: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Checks the arrays of one split and brings them into the trainer's form; memory-mapped images stay memory-mapped.

    Args:
      given: arrays by name, with one first dimension. An `image` has height and width; where there are images a `label` is the
        number of a class.
      files: each array's file by name, for messages.

    Raises:
      ConfigError: names the file, its content and what is expected.
    """
    # TensorFlow takes only the byte order of the machine.
    given = {
        name: array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        for name, array in given.items()
    }
    first = "image" if "image" in given else next(iter(given))
    if "image" in given:
        given["image"] = _checked_image(given, files)
    if "image" in given and "label" in given:
        label = given["label"]
        if label.ndim != 1 or label.dtype.kind not in "ui":
            raise _unfit("label", given, files, f"integers of shape [n]. {_label_advice(label)}")
    for name, array in given.items():
        if array.ndim == 0 or array.dtype.kind not in "biufcSU" or not len(array):
            raise _unfit(name, given, files, "numbers or text, one row per example")
        if len(array) != len(given[first]):
            raise _unfit(name, given, files, f"{len(given[first]):,} rows, as `{first}` in {files[first]} has")
    if "image" in given and "label" in given:
        given["label"] = _checked_label(label, files["label"])
    return given


def _checked_image(given: Mapping[str, np.ndarray], files: Mapping[str, str]) -> np.ndarray:
    image = given["image"]
    image = image[..., np.newaxis] if image.ndim == 3 else image
    if image.ndim != 4 or image.dtype.kind not in "uif" or image.dtype.itemsize > 8 or 0 in image.shape:
        raise _unfit("image", given, files, "numbers of shape [n, height, width] or [n, height, width, channels]")
    return image


def _checked_label(label: np.ndarray, file: str) -> np.ndarray:
    lowest, highest = int(label.min()), int(label.max())
    if lowest < 0 or highest > np.iinfo(np.int32).max:
        raise ConfigError(
            f"{file}: labels reach from {lowest} to {highest}. Classes are numbered from 0: remove unlabelled "
            "examples and save the labels as integers in 0..classes-1."
        )
    return np.asarray(label, np.int32)


def _unfit(name: str, given: Mapping[str, np.ndarray], files: Mapping[str, str], expected: str) -> ConfigError:
    seen = given[name]
    return ConfigError(f"{files[name]}: `{name}` is {seen.dtype} of shape {list(seen.shape)}. Expected: {expected}.")


def _label_advice(label: np.ndarray) -> str:
    """How to save labels that are not integers of shape [n]; a sentence without its full stop."""
    column = label.ndim == 2 and label.shape[1] == 1
    flat, name = (label[:, 0], "label[:, 0]") if column else (label, "label")
    if flat.ndim == 1 and flat.dtype.kind in "ui":
        return f"Save {name}"
    if flat.ndim == 1 and flat.dtype.kind in "US":
        return f"Number the classes, alike in every split: names = np.unique(train_label); save np.searchsorted(names, {name})"
    if flat.ndim == 1 and flat.dtype.kind in "bf" and np.isfinite(flat).all() and (flat == np.round(flat)).all():
        return f"Save {name}.astype(int)"
    if label.ndim == 2 and label.dtype.kind in "buif":
        one_hot = np.sort(label, axis=1) == (np.arange(label.shape[1]) == label.shape[1] - 1)
        if one_hot.all():
            return "It is one-hot: save label.argmax(axis=1)"
    return "What is no class has a name of its own beside images: save it as target=, and let the recipe read batch['target']"


def resize(given: Arrays, settings: DataSettings, *, where: str) -> Arrays:
    """Resizes every image to `data.image_size`, and what lies over its pixels with it; the dtype stays.

    Any other array [n, height, width, ...] with the image's height and width, such as a mask, is resized like the image
    if it holds floats; otherwise each pixel takes its nearest one, so that no class is made up.
    """
    size, image = settings.image_size, given.get("image")
    if size is None or image is None or image.shape[1:3] == tuple(size):
        return given
    out = dict(given)
    for name, array in given.items():
        if not _goes_with(array, image):
            continue
        out[name] = allocate((len(array), *size, *array.shape[3:]), array.dtype, where=where)
        if name != "image" and array.dtype.kind != "f":
            rows, columns = _nearest(size, array.shape[1:3])
            for start in range(0, len(array), _RESIZE_AT_ONCE):
                part = slice(start, start + _RESIZE_AT_ONCE)
                out[name][part] = array[part][:, rows[:, np.newaxis], columns]
            continue
        for start in range(0, len(array), _RESIZE_AT_ONCE):
            part = slice(start, start + _RESIZE_AT_ONCE)
            pixels = np.ascontiguousarray(array[part]).reshape(-1, *array.shape[1:3], int(np.prod(array.shape[3:])))
            out[name][part] = np.reshape(resize_images(pixels, size), out[name][part].shape)
    return out


def resize_batches(arrays: Arrays, settings: DataSettings) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
    """What does with a batch of tensors what `resize` does with arrays; None where nothing is to be done."""
    size, image = settings.image_size, arrays.get("image")
    if size is None or image is None or image.shape[1:3] == tuple(size):
        return None
    resized = {name: array for name, array in arrays.items() if _goes_with(array, image)}

    def resize_batch(batch: dict[str, Any]) -> dict[str, Any]:
        import tensorflow as tf

        out = dict(batch)
        for name, array in resized.items():
            value = batch[name]
            if name != "image" and array.dtype.kind != "f":
                rows, columns = _nearest(size, array.shape[1:3])
                out[name] = tf.gather(tf.gather(value, rows, axis=1), columns, axis=2)
                continue
            count = -1 if value.shape[0] is None else value.shape[0]
            pixels = tf.reshape(value, [count, *array.shape[1:3], int(np.prod(array.shape[3:]))])
            out[name] = tf.reshape(resize_images(pixels, size), [count, *size, *array.shape[3:]])
        return out

    return resize_batch


def _nearest(size: tuple[int, int], old: Sequence[int]) -> Iterator[np.ndarray]:
    """The rows and the columns whose pixels those of another size take."""
    return (((np.arange(new) + 0.5) * side / new).astype(int) for new, side in zip(size, old, strict=True))


def _goes_with(array: np.ndarray, image: np.ndarray) -> bool:
    """Whether an array has a value for each pixel of the images; the images have."""
    return array.ndim >= 3 and array.shape[:3] == image.shape[:3]


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
        f"{shape[0]:,} images of {format_sides(shape[1:])}",
        where,
    )
    return aligned.empty(shape, dtype)


def fits(needed: int) -> bool:
    """Whether `needed` bytes are a fair share of the free memory."""
    return needed <= _SHARE_OF_MEMORY * free_memory()


def check_memory(needed: int, what: str, where: str, *, advice: str = "") -> None:
    """Raises ConfigError if `needed` bytes are more than a fair share of the free memory.

    Args:
      needed: bytes.
      what: whose bytes they are.
      where: the file or data set.
      advice: what to do; by default to type smaller or fewer images.
    """
    free = free_memory()
    advice = advice or (
        "Type 'data.image_size=[32,32]' for smaller images, "
        f"or {data_override('train_split', 'train[:10%]')} for fewer."
    )
    if needed > _SHARE_OF_MEMORY * free:
        raise ConfigError(
            f"{where}: {what} are {needed / 2**30:.1f} GiB once decoded; at most {_SHARE_OF_MEMORY:.0%} of the "
            f"{free / 2**30:.1f} GiB of free memory may hold examples. {advice}"
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


def format_counts(found: Mapping[str, Arrays]) -> str:
    """`4,000 train, 1,000 test` for a description, of arrays by key."""
    return format_sizes({key: len(next(iter(arrays.values()))) for key, arrays in found.items()})


def format_sizes(sizes: Mapping[str, int]) -> str:
    """The same of numbers of examples by key."""
    counts = [f"{size:,} {key.partition('.')[2] or _NAMES[key]}" for key, size in sizes.items()]
    return ", ".join(counts if len(counts) > 1 else [*counts, "no evaluation split"])
