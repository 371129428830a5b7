"""TensorBoard's event files of a run: written while it trains, and cut where a resumed run goes on.

What goes wrong with them costs curves and never the run: it is said once, and training goes on. A run that goes on from
step k writes every later point again, so those that are there already are taken out, and TensorBoard is told.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

_NAMES = "events.out.tfevents.*"
# One value as tf.summary.scalar writes it (not a `simple_value`), so that whatever reads those reads these.
_SCALAR = tf.compat.v1.Summary.Value(
    metadata=tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
        data_class="DATA_CLASS_SCALAR",
    ),
    tensor=tf.make_tensor_proto(0.0, tf.float32),
)


class Events:
    """Writes points into a run folder.

    Args:
      folder: the run folder; None writes nothing.
      say: prints a line.
    """

    def __init__(self, folder: Path | None, *, say: Callable[[str], None] = print):
        self._folder = folder
        self._say = say
        self._writer: tf.summary.SummaryWriter | None = None  # opened with the first point
        self._lost = False

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes `{tag: value}` at a step as one event: each call of `tf.summary.scalar` would cost more than all of it."""
        summary = tf.compat.v1.Summary()
        for tag, value in values.items():
            scalar = summary.value.add()
            scalar.CopyFrom(_SCALAR)
            scalar.tag = tag
            scalar.tensor.float_val[0] = value
        self._try(lambda: self._write(tf.summary.experimental.write_raw_pb, summary.SerializeToString(), step=step))

    def images(self, name: str, images: np.ndarray, step: int) -> None:
        """Writes images [n, height, width, channels] in [0, 1]."""
        self._try(lambda: self._write(tf.summary.image, name, images, step=step, max_outputs=len(images)))

    def flush(self) -> None:
        """Hands everything so far to the operating system, where the end of this process does not touch it."""
        if self._writer is not None:
            self._try(lambda: self._opened().flush())

    def rewind(self, step: int) -> None:
        """Takes out what was written after `step`; the run is about to write it again."""
        folder = self._folder
        self.close()
        self._writer = None
        if folder is not None:
            self._try(lambda: cut(folder, step))

    def close(self) -> None:
        """Writes the rest."""
        if self._writer is not None:
            self._try(lambda: self._opened().close())

    def _opened(self) -> tf.summary.SummaryWriter:
        if self._writer is None and self._folder is None:
            self._writer = tf.summary.create_noop_writer()
        elif self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder))
        return self._writer

    def _write(self, what: Callable[..., object], *args, **options) -> None:
        with self._opened().as_default():
            what(*args, **options)

    def _try(self, write: Callable[[], object]) -> None:
        """Runs it, and gives up on what cannot be written."""
        try:
            self._missing()
            write()
            self._lost = False
        except (OSError, tf.errors.OpError) as error:
            if not self._lost:
                self._say(
                    f"WARNING: points for TensorBoard cannot be written to {self._folder} ({_reason(error)}): training goes "
                    "on without them"
                )
            self._lost = True

    def _missing(self) -> None:
        """Makes the folder anew where somebody has removed it."""
        if self._folder is not None and not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = None
            self._say(
                f"WARNING: {self._folder} was removed while this run writes to it: made anew, what was in it is gone"
            )


def cut(folder: Path, step: int) -> int:
    """Takes every point after `step` out of the event files of a folder, and a last record that a crash cut short.

    Returns:
      How many records were taken out.
    """
    taken = 0
    files = sorted(folder.glob(_NAMES))
    for file in files:
        content = file.read_bytes()
        kept = [record for record, event in _records(content) if event.step <= step]
        whole = b"".join(kept)
        if whole != content:
            taken += sum(1 for _ in _records(content)) - len(kept)
            partial = file.with_name(f".cut-{file.name.replace('tfevents', 'partial')}")
            partial.write_bytes(whole)
            os.replace(partial, file)
    if files:
        # A TensorBoard that is open has read those points: this has it forget them. Sorted between the old files and the
        # next one by its name.
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0.purge"
        start = tf.compat.v1.Event(
            wall_time=time.time(),
            step=step + 1,
            session_log=tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START),
        )
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            writer.write(tf.compat.v1.Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
            writer.write(start.SerializeToString())
    return taken


def _records(content: bytes) -> Iterator[tuple[bytes, tf.compat.v1.Event]]:
    """The whole records of an event file, each as it is and decoded; ends where the file is not whole any more."""
    at, head, tail = 0, 12, 4  # a length and its checksum before, the data's checksum behind
    while at + head + tail <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        end = at + head + length + tail
        if not length or end > len(content):
            return
        try:
            event = tf.compat.v1.Event.FromString(content[at + head : end - tail])
        except Exception:  # protobuf's own type, which differs between its implementations
            return
        yield content[at:end], event
        at = end


def _reason(error: Exception) -> str:
    text = str(getattr(error, "strerror", None) or getattr(error, "message", None) or error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
