"""TensorBoard's event files of a run: written while it trains, and truncated when it resumes.

An error costs curves and never the run: it is logged once, and training continues. A run that resumes at step k writes every
later point again, so the existing later points are removed, and TensorBoard is notified.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from modetrain.files import atomic, pictures

_NAMES = "events.out.tfevents.*"
_PURGE = ".purge"
_PAUSE = 60.0  # seconds until the next attempt after a failed write
# One value as tf.summary.scalar writes it (not a `simple_value`), so that the same readers can read it.
_SCALAR = tf.compat.v1.Summary.Value(
    metadata=tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
        data_class="DATA_CLASS_SCALAR",
    ),
    tensor=tf.make_tensor_proto(0.0, tf.float32),
)

_IMAGES = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="images"), data_class="DATA_CLASS_BLOB_SEQUENCE"
)

log = logging.getLogger(__name__)


class TensorBoardWriter:
    """Writes points into a run folder.

    Args:
      folder: the run folder; None writes nothing.
      now: reads a monotonic time in seconds.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        now: Callable[[], float] = time.monotonic,
    ):
        self._folder = folder
        self._now = now
        self._writer: tf.summary.SummaryWriter | None = None  # opened with the first point
        self._file: Path | None = None
        self._lost_until = 0.0  # after an error there is no attempt before this time

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes `{tag: value}` at a step as one event, which is cheaper than one call of `tf.summary.scalar`."""
        summary = tf.compat.v1.Summary()
        for tag, value in values.items():
            scalar = summary.value.add()
            scalar.CopyFrom(_SCALAR)
            scalar.tag = tag
            scalar.tensor.float_val[0] = value
        with self._writing() as write:
            if write:
                tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)

    def images(self, name: str, images: Any, step: int) -> str:
        """Writes images [n, height, width, channels]; returns what is wrong with them (see `pictures.py`), or nothing.

        They are encoded before anything is written: a picture that cannot be encoded costs no other point.
        """
        if self._folder is None:
            return ""
        pixels, problem = pictures.convert(images)
        if pixels is None:
            return problem
        try:
            encoded = [tf.io.encode_png(image).numpy() for image in pixels]
        except (ValueError, tf.errors.OpError) as error:
            return f"of shape {list(pixels.shape)}, which cannot be encoded as PNG ({_reason(error)})"
        with self._writing() as write:
            if write:
                size = [str(side).encode() for side in (pixels.shape[2], pixels.shape[1])]
                tf.summary.write(name, tf.constant([*size, *encoded]), step=step, metadata=_IMAGES)
        return problem

    def text(self, name: str, text: str, step: int) -> None:
        """Writes a text; TensorBoard shows it as Markdown."""
        with self._writing() as write:
            if write:
                tf.summary.text(name, text, step=step)

    def flush(self) -> None:
        """Writes all points so far to the operating system; they survive the end of this process."""
        if self._writer is not None:
            with self._writing() as write:
                if write:
                    self._writer.flush()

    def rewind(self, step: int) -> None:
        """Removes the points after `step`; the run writes them again."""
        self.close()
        if self._folder is not None:
            with self._log_errors():
                truncate(self._folder, step)

    def close(self) -> None:
        """Writes the rest and closes the file; later points go into another file."""
        writer, self._writer, self._file = self._writer, None, None
        if writer is not None:
            with self._log_errors():
                writer.close()

    # --- private ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[bool]:
        """Within this points go to the open file; yields whether there is one."""
        opened = False
        if self._folder is not None and self._now() >= self._lost_until:
            with self._log_errors():
                self._open(self._folder)
                opened = True
        if opened and self._writer is not None:
            with self._log_errors(), self._writer.as_default():
                yield True
        else:
            yield False

    def _open(self, folder: Path) -> None:
        if self._file is not None and not self._file.exists():
            self._writer = None
            log.warning(
                f"{self._file} was removed while this run writes to it; its points are lost, later ones are not"
            )
        if self._writer is None:
            folder.mkdir(parents=True, exist_ok=True)
            before = set(folder.glob(_NAMES))
            self._writer = tf.summary.create_file_writer(os.fsencode(folder))  # bytes: any path
            self._writer.flush()
            # A network mount may list it later: then a removed file is not noticed.
            self._file = next(iter({*folder.glob(_NAMES)} - before), None)

    @contextlib.contextmanager
    def _log_errors(self) -> Iterator[None]:
        """Logs an error inside and starts a pause; the next attempt uses another file, because this one may end within a record."""
        try:
            yield
        except (OSError, UnicodeError, tf.errors.OpError) as error:  # TensorFlow takes paths in UTF-8
            log.warning(
                f"points for TensorBoard cannot be written to {self._folder} ({_reason(error)}): training continues "
                f"without them; next attempt in {_PAUSE:.0f} s"
            )
            self._writer = self._file = None
            self._lost_until = self._now() + _PAUSE


def truncate(folder: Path, step: int) -> int:
    """Removes every point after `step` from the event files of a folder, and a last record that a crash left incomplete.

    Returns:
      The number of removed records.
    """
    removed = 0
    for file in folder.glob(f"{_NAMES}{_PURGE}"):  # from an earlier call
        file.unlink()
    files = sorted(folder.glob(_NAMES))
    for file in files:
        content = file.read_bytes()
        records = list(iter_records(content))
        whole = b"".join(raw for raw, event in records if event.step <= step)
        if whole != content:
            removed += sum(1 for _, event in records if event.step > step)
            partial = file.with_name(f".cut-{file.name.replace('tfevents', 'partial')}")
            partial.write_bytes(whole)
            atomic.replace(partial, file)
    if files:
        # An open TensorBoard has read those points; this file makes it forget them. By name it sorts after the existing files
        # and before the next one, whose name holds a later second.
        if files[-1].name.startswith(f"events.out.tfevents.{int(time.time()):010d}"):
            time.sleep(1.0 - time.time() % 1.0)
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        with tf.io.TFRecordWriter(os.fsencode(folder / f"{files[-1].name}{_PURGE}")) as writer:
            restart = tf.compat.v1.Event(wall_time=time.time(), step=step + 1, session_log=start)
            # Twice: TensorBoard ignores the first one.
            for event in (tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2"), restart, restart):
                writer.write(event.SerializeToString())
    return removed


def iter_records(content: bytes) -> Iterator[tuple[bytes, tf.compat.v1.Event]]:
    """Yields the whole records of an event file, raw and decoded; ends at the first incomplete or damaged record."""
    at, head, tail = 0, 12, 4  # a length and its checksum before the data, the data's checksum after it
    while at + head + tail <= len(content):
        length, checksum = struct.unpack_from("<QI", content, at)
        end = at + head + length + tail
        if checksum != _checksum(content[at : at + 8]) or end > len(content):
            return
        data = content[at + head : end - tail]
        # Checksums are slow in Python; only the last record can be wrong.
        last = end + head > len(content) or struct.unpack_from("<I", content, end + 8)[0] != _checksum(
            content[end : end + 8]
        )
        if last and struct.unpack_from("<I", content, end - tail)[0] != _checksum(data):
            return
        yield content[at:end], tf.compat.v1.Event.FromString(data)
        at = end


def _checksum(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _make_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC = _make_table()


def _reason(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or getattr(error, "message", None) or error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
