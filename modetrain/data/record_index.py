"""Where the records of TFRecord files lie: one pass over the headers of a file, whose result is kept.

    index = RecordIndex.of([Path("train-00000.tfrecord"), Path("train-00001.tfrecord")])
    index.read(7)           # the bytes of record 7

A file is read again when its size or its time of change is another. The index of `a.tfrecord` is kept beside it as
`.a.tfrecord.index.npz`, or where that cannot be written in `~/.cache/modetrain`.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modetrain.errors import ConfigError
from modetrain.files.paths import format_path

_HEADER = struct.Struct("<QI")  # length, checksum of the length
_AROUND = _HEADER.size + 4  # bytes of a record besides its content
_VERSION = 1


class RecordIndex:
    """The records of several files, one after the other.

    Args:
      files: the files.
      starts: by file where the content of each record begins, int64.
      lengths: by file the length of each content, int64.

    Attributes:
      files: as given.
    """

    def __init__(self, files: Sequence[Path], starts: Sequence[np.ndarray], lengths: Sequence[np.ndarray]):
        self.files = list(files)
        self._starts = np.concatenate([np.zeros(0, np.int64), *starts])
        self._lengths = np.concatenate([np.zeros(0, np.int64), *lengths])
        self._ends = np.cumsum([len(some) for some in starts])
        self._open = [os.open(file, os.O_RDONLY) for file in files]

    def __del__(self) -> None:
        for descriptor in getattr(self, "_open", ()):
            os.close(descriptor)

    @classmethod
    def of(cls, files: Sequence[Path]) -> RecordIndex:
        """The index of some files, from what is kept of them or read now.

        Raises:
          ConfigError: a file is no TFRecord file, or damaged, so that the records after that place cannot be found.
        """
        found = [_kept(file) for file in files]
        return cls(files, [starts for starts, _ in found], [lengths for _, lengths in found])

    def __len__(self) -> int:
        return len(self._starts)

    def read(self, row: int) -> bytes:
        """The content of a record; shorter than it should be where the file was cut meanwhile."""
        at = int(np.searchsorted(self._ends, row, side="right"))
        return os.pread(self._open[at], int(self._lengths[row]), int(self._starts[row]))

    def checksum_fits(self, row: int) -> bool:
        """Whether the content of a record is what was written; slow, for a record that cannot be read otherwise."""
        at = int(np.searchsorted(self._ends, row, side="right"))
        given = os.pread(self._open[at], int(self._lengths[row]) + 4, int(self._starts[row]))
        content = np.frombuffer(given[:-4], np.uint8).reshape(1, -1)
        return len(given) > 3 and int(_masked_checksums(content)[0]) == int.from_bytes(given[-4:], "little")

    def describe(self, row: int) -> str:
        """A record by its file and its number there."""
        at = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[at - 1]) if at else 0
        return f"record {row - first} of {format_path(self.files[at], Path.cwd())}"


# --- what is kept -----------------------------------------------------------------------------------------------------


def _kept(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """The index of one file."""
    status = file.stat()
    stamp = np.array([_VERSION, status.st_size, status.st_mtime_ns], np.int64)
    places = _places(file)
    for place in places:
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(place) as kept:
            if np.array_equal(kept["stamp"], stamp):
                return kept["starts"], kept["lengths"]
    starts, lengths = scan(file)
    for place in places:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_name(f"{place.name[:-4]}.{os.getpid()}.npz")
            np.savez(partial, stamp=stamp, starts=starts, lengths=lengths)
            os.replace(partial, place)
            break
    return starts, lengths


def _places(file: Path) -> list[Path]:
    """Where the index of a file may be kept, the best first."""
    whole = file.resolve()
    short = hashlib.sha256(os.fsencode(whole)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [whole.with_name(f".{whole.name}.index.npz"), cache / "modetrain" / f"{whole.name[:80]}-{short}.npz"]


# --- one pass ---------------------------------------------------------------------------------------------------------


def scan(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Where the records of a file begin, and their lengths, by its headers alone.

    Raises:
      ConfigError: names the record whose header is damaged, or which is cut off.
    """
    size = file.stat().st_size
    starts, lengths, checksums = [], [], []
    position = 0
    if size:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            while position + _AROUND <= size:
                length, checksum = _HEADER.unpack_from(content, position)
                if length > size - position - _AROUND:
                    break
                starts.append(position + _HEADER.size)
                lengths.append(length)
                checksums.append(checksum)
                position += length + _AROUND
    found = np.array(lengths, np.int64)
    headers = found.astype("<u8").view(np.uint8).reshape(-1, 8)
    damaged = np.flatnonzero(_masked_checksums(headers) != np.array(checksums, np.uint32))
    if len(damaged) or position != size:
        raise _damaged(file, int(damaged[0]) if len(damaged) else len(starts), starts, size)
    return np.array(starts, np.int64), found


def _damaged(file: Path, record: int, starts: Sequence[int], size: int) -> ConfigError:
    where = format_path(file, Path.cwd())
    with open(file, "rb") as opened:
        beginning = opened.read(2)
    if beginning == b"\x1f\x8b":
        return ConfigError(
            f"{where}: compressed by GZIP, so that its records cannot be read apart. Type gunzip {where}."
        )
    if not record:
        return ConfigError(f"{where}: no TFRecord file, or damaged at its first record. Write or copy it again.")
    at = starts[record] - _HEADER.size if record < len(starts) else None
    place = f"at byte {at:,} of {size:,}" if at is not None else f"of {size:,} bytes"
    return ConfigError(
        f"{where}: record {record} ({place}) is damaged in its header or cut off, so that the records after it cannot be found. "
        "Write or copy the file again."
    )


def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _table()


def _masked_checksums(rows: np.ndarray) -> np.ndarray:
    """The checksum (CRC-32C, masked as TFRecord does) of each row of bytes."""
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in range(rows.shape[1]):
        crc = _TABLE[(crc ^ rows[:, column]) & 0xFF] ^ (crc >> 8)
    crc = ~crc
    return ((crc >> 15) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)
