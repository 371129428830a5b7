"""The archive inside a checkpoint: arrays by name and a header, as an uncompressed zip archive that NumPy opens anywhere.

    sha = archive.write(file, arrays, {"step": 7})
    header, arrays, now, written = archive.read(file)   # equal SHA-256: unchanged since it was written

A recipe chooses its names, and they may be any text. The member of the zip archive is `<name>.npy`. A name that would be read
as something else gets a number as its member, which the header holds.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_HEADER = "__modetrain__"
_SHA = "__sha256__"
_LONGEST = 1000  # bytes of a member's name; a zip archive ends at 65,535


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> str:
    """Writes arrays by name.

    Args:
      file: open for writing.
      arrays: arrays of dtypes that an archive holds (see `holds`).
      facts: more values for the header, as JSON; the key `arrays` is reserved.

    Returns:
      The SHA-256 over the header and all names, dtypes, shapes and bytes.
    """
    members = _members(arrays)
    kinds = {
        name: [array.dtype.name, list(array.shape), *([members[name]] if members[name] != name else [])]
        for name, array in arrays.items()
    }
    header = json.dumps({**facts, "arrays": kinds}).encode()
    sha = compute_sha(arrays, header)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _put(archive, _HEADER, np.frombuffer(header, np.uint8))
        _put(archive, _SHA, np.frombuffer(bytes.fromhex(sha), np.uint8))
        for name, array in arrays.items():
            # NumPy files have no bfloat16 and similar dtypes: the archive holds their bytes and the name of the dtype.
            foreign = array.dtype.isbuiltin == 2
            _put(archive, members[name], array.view(np.dtype(f"u{array.dtype.itemsize}")) if foreign else array)
    return sha


def read(file: BinaryIO | Path) -> tuple[dict[str, Any], dict[str, np.ndarray], str, str]:
    """Reads what `write` has written.

    Returns:
      The header, the arrays by name, their SHA-256 now, and the SHA-256 when they were written.

    Raises:
      Exception: of any type; zipfile and NumPy have no common error for damage.
    """
    with zipfile.ZipFile(file) as archive:
        raw = _get(archive, _HEADER).tobytes()
        header = json.loads(raw)
        arrays = {name: _read(archive, name, *kind) for name, kind in header["arrays"].items()}
        written = _get(archive, _SHA).tobytes().hex()
    return header, arrays, compute_sha(arrays, raw), written


def compute_sha(arrays: Mapping[str, np.ndarray], header: bytes = b"") -> str:
    """SHA-256 over a header and the names, dtypes, shapes and bytes of all arrays, in the order of their names."""
    sha = hashlib.sha256(header)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.name} {array.shape}\n".encode(errors="surrogatepass"))
        if array.size:
            sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def holds(dtype: str) -> bool:
    """Whether an archive can hold arrays of a dtype."""
    try:
        found = dtype_of(dtype)
    except (TypeError, AttributeError):
        return False
    return found.itemsize in (1, 2, 4, 8) if found.isbuiltin == 2 else found.kind in "biufc"


def dtype_of(name: str) -> np.dtype:
    """NumPy's dtype by its name.

    Raises:
      TypeError or AttributeError: there is no such dtype.
    """
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # comes with TensorFlow; adds bfloat16 and similar dtypes to NumPy

        return np.dtype(getattr(ml_dtypes, name))


# --- private ---------------------------------------------------------------------------------------------------------


def _members(names: Iterable[str]) -> dict[str, str]:
    return {name: name if _is_plain(name) else f"{_HEADER}/{index}" for index, name in enumerate(names)}


def _is_plain(name: str) -> bool:
    """Whether zipfile stores a name unchanged, and it cannot be confused with another member."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return size <= _LONGEST and "\0" not in name and not name.startswith((_HEADER, _SHA)) and not name.endswith(".npy")


def _put(archive: zipfile.ZipFile, member: str, array: np.ndarray) -> None:
    with archive.open(f"{member}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _get(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(f"{member}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read(
    archive: zipfile.ZipFile, name: str, dtype: str, shape: Sequence[int], member: str | None = None
) -> np.ndarray:
    array = _get(archive, name if member is None else member).view(dtype_of(dtype))
    if list(array.shape) != list(shape):  # NumPy reads up to the length in the array's header, which may be damaged
        raise ValueError(f"{name} claims the shape {array.shape} instead of {tuple(shape)}")
    return array
