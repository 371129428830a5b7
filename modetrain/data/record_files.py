"""A split of records in files: read by an index and decoded by TensorFlow as batches are made.

    split = RecordFiles(RecordIndex.of(files), decode, name="the split train")
    split.gather(rows)

What varies in size is padded with zeros to the longest of the batch. Only where a record of a batch cannot be decoded is the batch
read again, record by record in Python, which tells the file and the reason, or finds another in its place (`row_reader.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.row_reader import RowReader, UnreadableError
from modetrain.data.split import PROBED, Split, flatten, length_name, stack
from modetrain.errors import ConfigError

_LASTING = (
    tf.errors.InvalidArgumentError,
    tf.errors.OutOfRangeError,
    tf.errors.DataLossError,
    tf.errors.UnimplementedError,
)


class RecordFiles(Split):
    """Examples in records.

    Args:
      index: gives the bytes of a record by its row: `len()`, `read(row)`, `describe(row)`, `checksum_fits(row)`.
      decode: makes the features of a record, a scalar string; it is traced, and may return ragged tensors and nested dicts.
      decode_batch: the same for several records at once, [n], with what varies padded and its sizes as `NAME_length`; None decodes
        them one by one.
      name: what the split is called in messages.
      on_error: what is done where a record cannot be decoded: `stop` or `skip`.

    Raises:
      ConfigError: one of the first records cannot be decoded.
    """

    def __init__(
        self,
        index: Any,
        decode: Callable[[tf.Tensor], Mapping[str, Any]],
        decode_batch: Callable[[tf.Tensor], Mapping[str, tf.Tensor]] | None = None,
        *,
        name: str,
        on_error: str = "stop",
    ):
        self._index = index
        self._decode = decode
        self._decode_batch = decode_batch
        self.shapes = {}
        with tf.device("CPU:0"):
            spec = tf.data.Dataset.from_tensors(b"").map(self._example).element_spec
        self._reader = RowReader(self._read_row, name=name, rows=range(len(index)), on_error=on_error)
        super().__init__(
            len(index), {n: tuple(one.shape) for n, one in spec.items()}, {n: one.dtype for n, one in spec.items()}
        )
        for row in range(min(PROBED, len(index))):
            self._reader(row)

    def within(self, rows: range) -> RecordFiles:
        part = copy.copy(self)
        part._reader = self._reader.within(rows)
        return part

    def skipped(self) -> list[str]:
        return self._reader.described()

    def gather(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        names = list(self.dtypes)
        contents = tf.ensure_shape(tf.numpy_function(self._contents, [rows], tf.string, stateful=False), rows.shape)
        decoded = self._decode_all(contents)

        def by_record() -> list[tf.Tensor]:
            return tf.nest.flatten(
                tf.numpy_function(self._read_rows, [rows], [self.dtypes[name] for name in names], stateful=False)
            )

        whole = tf.equal(tf.shape(decoded[names[0]])[0], tf.shape(rows)[0])
        found = tf.nest.flatten(tf.cond(whole, lambda: [decoded[name] for name in names], by_record))
        return {n: tf.ensure_shape(v, [rows.shape[0], *self.shapes[n]]) for n, v in zip(names, found, strict=True)}

    # --- private ----------------------------------------------------------------------------------------------------

    def _example(self, content: tf.Tensor) -> dict[str, tf.Tensor]:
        """The features of a record by flat name, dense, with the sizes of those that vary."""
        found: dict[str, tf.Tensor] = {}
        for name, value in flatten(self._decode(content)).items():
            if isinstance(value, tf.RaggedTensor):
                found[name] = value.to_tensor()
            else:
                found[name] = tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value
        for name, value in list(found.items()):
            shape = self.shapes.get(name, tuple(value.shape))  # an eager value shows no dimension that varies
            if None in shape and length_name(name) not in found:
                found[length_name(name)] = tf.shape(value)[shape.index(None)]
        return found

    def _decode_all(self, contents: tf.Tensor) -> dict[str, tf.Tensor]:
        """The records that can be decoded, padded to one size."""
        # A data set, because only that can go on after an operation has failed.
        if self._decode_batch is None:
            examples = tf.data.Dataset.from_tensor_slices(contents).map(self._example).ignore_errors(log_warning=False)
            decoded = examples.padded_batch(tf.maximum(tf.shape(contents, tf.int64)[0], 1))
        else:
            batch = tf.data.Dataset.from_tensors(contents).map(self._decode_batch)
            decoded = batch.ignore_errors(log_warning=False)
        none = {n: tf.zeros([0, *(s or 0 for s in self.shapes[n])], t) for n, t in self.dtypes.items()}
        batch = decoded.concatenate(tf.data.Dataset.from_tensors(none)).take(1)
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        options.autotune.enabled = False
        return batch.with_options(options).get_single_element()

    def _contents(self, rows: np.ndarray) -> np.ndarray:
        return np.array([self._index.read(int(row)) for row in rows], object)

    def _read_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        examples = [self._reader(int(row))[1] for row in rows]
        return [stack([example[name] for example in examples], dtype) for name, dtype in self.dtypes.items()]

    def _read_row(self, row: int) -> dict[str, np.ndarray]:
        try:
            with tf.device("CPU:0"):
                found = self._example(tf.constant(self._index.read(row)))
                return {n: np.asarray(v.numpy(), object if v.dtype == tf.string else None) for n, v in found.items()}
        except ConfigError as error:
            raise ConfigError(f"{self._index.describe(row)}: {error}") from error
        except (*_LASTING, UnicodeDecodeError) as error:  # the latter where TensorFlow's message has the record's bytes
            text = str(error).strip().split("\n")[0].split("}} ")[-1].split(" [Op:")[0]
            text = text if isinstance(error, _LASTING) else "it is no tf.train.Example"
            reason = text[:200] if self._index.checksum_fits(row) else "damaged: its checksum does not fit"
            raise UnreadableError(f"{self._index.describe(row)}: {reason}") from error
