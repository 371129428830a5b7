"""The archive inside a checkpoint: arrays by name and a header, as an uncompressed zip archive that NumPy opens anywhere.

    sha = archive.write(file, arrays, {"step": 7})
    header, arrays = archive.read(file)         # proven to be what was written

A name is a recipe's own and may be any text. Its member of the zip archive is `<name>.npy`. Where that would be read as
something else, the member has a number and the header says which.
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
      arrays: of dtypes that an archive holds (see `holds`).
      facts: goes into the header, as JSON; `arrays` is taken.

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
            # NumPy files know no bfloat16 and its like: their bytes are kept, and the name of their dtype.
            foreign = array.dtype.isbuiltin == 2
            _put(archive, members[name], array.view(np.dtype(f"u{array.dtype.itemsize}")) if foreign else array)
    return sha


def read(file: BinaryIO | Path) -> tuple[dict[str, Any], dict[str, np.ndarray], str, str]:
    """Reads what `write` has written.

    Returns:
      The header, the arrays by name, their SHA-256, and the one that they were written with.

    Raises:
      Exception: of any type; what damage does to zipfile and NumPy has no common one.
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
    """Whether arrays of a dtype come back from an archive."""
    try:
        found = dtype_of(dtype)
    except (TypeError, AttributeError):
        return False
    return found.itemsize in (1, 2, 4, 8) if found.isbuiltin == 2 else found.kind in "biufc"


def dtype_of(name: str) -> np.dtype:
    """NumPy's dtype of a name.

    Raises:
      TypeError or AttributeError: there is none.
    """
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # comes with TensorFlow; gives NumPy bfloat16 and its like

        return np.dtype(getattr(ml_dtypes, name))


# --- private ---------------------------------------------------------------------------------------------------------


def _members(names: Iterable[str]) -> dict[str, str]:
    return {name: name if _is_plain(name) else f"{_HEADER}/{index}" for index, name in enumerate(names)}


def _is_plain(name: str) -> bool:
    """Whether zipfile keeps a name, and NumPy does not take it for another member."""
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
    if list(array.shape) != list(shape):  # an array is read up to the length it claims, and its CRC at the true end
        raise ValueError(f"{name} claims the shape {array.shape} instead of {tuple(shape)}")
    return array
