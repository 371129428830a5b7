"""A split of image files, read and decoded as batches are made: by TensorFlow's threads, on all cores.

    split = ImageFiles({"image": photos}, {"label": labels}, name="the split train of photos")
    split.gather(rows)          # {"image": uint8 [n, height, width, channels], "label": [n]}

A batch is decoded by operations of TensorFlow alone. Only where one of its files fails is the batch read again, file by file in
Python, which tells the file and the reason, or finds another in its place (`row_reader.py`).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from modetrain.data.image_format import Format
from modetrain.data.row_reader import RowReader, UnreadableError
from modetrain.data.split import ArraySplit, Split
from modetrain.files.paths import format_path

_AT_ONCE = 10  # files of a batch; several batches are made at once as well
_SAMPLED = 32  # files that are looked at before the first step
_LASTING = (
    tf.errors.InvalidArgumentError,  # no image, or half of one
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
    tf.errors.FailedPreconditionError,  # a folder
    tf.errors.OutOfRangeError,
    tf.errors.UnimplementedError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
    """The files of one feature, all read alike.

    Attributes:
      folder: where they lie.
      files: by row the file's path in the folder.
      size: [height, width] that each image is resized to; None where all have one size.
      channels: 1 or 3; None for those of the first image.
      nearest: whether a pixel takes its nearest one as it is resized, as the classes of a mask do; else it is the average of
        its area where a side shrinks to less than half, and interpolated otherwise.
    """

    folder: str
    files: Sequence[str]
    size: tuple[int, int] | None = None
    channels: int | None = None
    nearest: bool = False


class ImageFiles(Split):
    """Examples whose images are files.

    Args:
      images: by feature its files.
      arrays: by name the features in memory, such as labels.
      name: what it is called in messages.
      like: another split, whose images have the shapes that these must have.
      on_error: what is done where a file cannot be read: `stop` or `skip`.

    Raises:
      ConfigError: some of the first images differ in size or channels, or cannot be read.
    """

    def __init__(
        self,
        images: Mapping[str, Images],
        arrays: Mapping[str, np.ndarray],
        *,
        name: str,
        like: ImageFiles | None = None,
        on_error: str = "stop",
    ):
        self._arrays = ArraySplit(arrays)
        self._given = images
        self._count = len(next(iter(images.values())).files)
        self._files = {feature: tf.constant([os.fsencode(f) for f in one.files]) for feature, one in images.items()}
        self._folders = {feature: os.fsencode(os.path.join(one.folder, "")) for feature, one in images.items()}
        self._formats: dict[str, Format] = dict(like._formats) if like is not None else {}
        self._reader = RowReader(self._read_row, name=name, rows=range(self._count), on_error=on_error)
        for row in np.unique(np.linspace(0, self._count - 1, min(_SAMPLED, self._count)).astype(int)):
            self._reader(int(row))
        shapes = {feature: form.shape for feature, form in self._formats.items()}
        dtypes = {feature: form.dtype for feature, form in self._formats.items()}
        super().__init__(self._count, {**shapes, **self._arrays.shapes}, {**dtypes, **self._arrays.dtypes})

    def within(self, rows: range) -> ImageFiles:
        part = copy.copy(self)
        part._reader = self._reader.within(rows)
        return part

    def skipped(self) -> list[str]:
        return self._reader.described()

    def load(self) -> None:
        self._arrays.load()

    def column(self, name: str) -> np.ndarray | None:
        return self._arrays.column(name)

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        names = list(self._formats)

        def by_file() -> list[tf.Tensor]:
            dtypes = [self._formats[name].dtype for name in names]
            return tf.numpy_function(self._read_rows, [rows], [tf.int64, *dtypes], stateful=False)

        whole, decoded = self._decode_all(rows)
        used, *images = tf.cond(whole, lambda: [rows, *(decoded[name] for name in names)], by_file)
        used = tf.ensure_shape(used, rows.shape)
        return {
            **{
                n: tf.ensure_shape(v, [*rows.shape, *self._formats[n].shape])
                for n, v in zip(names, images, strict=True)
            },
            **self._arrays.gather(used),
        }

    def fingerprint(self) -> str:
        """A short hash of the names of all files, what belongs to them, and the content of some."""
        sha = hashlib.sha256(self._arrays.fingerprint().encode())
        for feature, one in sorted(self._given.items()):
            form = self._formats[feature]
            sha.update(os.fsencode("\0".join([feature, *one.files])))
            sha.update(repr((form.shape, form.dtype, form.convert, form.resize, form.nearest)).encode())
            for row in (0, self._count // 2, self._count - 1):
                try:
                    with open(os.path.join(one.folder, one.files[row]), "rb") as file:
                        sha.update(file.read())
                except OSError:
                    sha.update(b"unreadable")
        return sha.hexdigest()[:12]

    # --- private ----------------------------------------------------------------------------------------------------

    def _decode_all(self, rows: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Whether all files of the rows could be read, and their images; zeros if not."""
        signature = {n: tf.TensorSpec(form.shape, form.dtype) for n, form in self._formats.items()}

        def decode(rows: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
            def one(row: tf.Tensor) -> dict[str, tf.Tensor]:
                files = {n: tf.strings.join([self._folders[n], tf.gather(self._files[n], row)]) for n in self._formats}
                return {n: form.decode(tf.io.read_file(files[n])) for n, form in self._formats.items()}

            return tf.constant(True), tf.map_fn(one, rows, fn_output_signature=signature, parallel_iterations=_AT_ONCE)

        # A data set of one element, the batch, because only a data set can go on after an operation has failed.
        failed = (tf.constant(False), {n: tf.zeros([0, *s.shape], s.dtype) for n, s in signature.items()})
        batch = tf.data.Dataset.from_tensors(rows).map(decode).ignore_errors(log_warning=False)
        either = batch.concatenate(tf.data.Dataset.from_tensors(failed)).take(1)
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        options.autotune.enabled = False
        return either.with_options(options).get_single_element()

    def _read_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """What `gather` returns of images, read file by file; first the rows that were read."""
        found = [self._reader(int(row)) for row in rows]
        used = np.array([row for row, _ in found], np.int64)
        if not found:
            return [used, *(np.zeros([0, *form.shape], form.dtype.as_numpy_dtype) for form in self._formats.values())]
        return [used, *(np.stack([example[name] for _, example in found]) for name in self._formats)]

    def _read_row(self, row: int) -> dict[str, np.ndarray]:
        found = {}
        for feature, one in self._given.items():
            file = os.path.join(one.folder, one.files[row])
            try:
                with tf.device("CPU:0"):
                    content = tf.io.read_file(os.fsencode(file))
                    if feature not in self._formats:
                        self._formats[feature] = Format.find(
                            content, file=file, size=one.size, channels=one.channels, nearest=one.nearest
                        )
                    self._formats[feature].check(content, file)
                    found[feature] = self._formats[feature].decode(content).numpy()
            except _LASTING as error:
                raise UnreadableError(f"{format_path(Path(file), Path.cwd())} {_reason(error)}") from error
        return found


def _reason(error: Exception) -> str:
    """TensorFlow's message in one line, without the names of its kernels and of the file."""
    text = str(error).strip().split("\n")[0]
    text = text.split("}} ")[-1].split(" [Op:")[0].split("; ")[-1].rstrip(".")
    text = text if len(text) <= 160 else f"{text[:157]}..."
    return f"is damaged, or no image ({text})" if isinstance(error, tf.errors.InvalidArgumentError) else f"({text})"
