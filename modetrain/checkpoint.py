"""A checkpoint: a file that holds every variable by name, the step, and what the run was made from.

It is whole or not there at all. Where the checkpoints of a run lie, `run_folder.py` knows.

An .npz is an uncompressed zip archive of arrays, checked by CRC as it is read; NumPy opens it anywhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modetrain.errors import ConfigError

_META = "__modetrain__"


class CheckpointError(ConfigError):
    """A checkpoint that cannot be restored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
      step: updates completed.
      arrays: value of each variable by name.
      meta: what else was kept with it (JSON).
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def save(path: Path, state: Mapping[str, Any], *, step: int, meta: Mapping[str, Any]) -> None:
    """Writes a checkpoint; a crash at any moment leaves either the whole file or none under its name.

    Args:
      path: where to.
      state: variables by name, anything with `.numpy()`.
      step: updates completed.
      meta: anything else to keep, as JSON.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(variable.numpy()) for name, variable in state.items()}
    # NumPy files know no bfloat16 and its like: their bytes are kept, and the name of their dtype.
    kinds = {name: [array.dtype.name, list(array.shape)] for name, array in arrays.items()}
    plain = {n: a if a.dtype.kind in "biufc" else a.view(np.dtype(f"u{a.dtype.itemsize}")) for n, a in arrays.items()}
    header = json.dumps({"step": step, "arrays": kinds, "meta": dict(meta)})
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        named: dict[str, Any] = {_META: np.frombuffer(header.encode(), np.uint8), **plain}
        np.savez(file, **named)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
      CheckpointError: when the file is missing, truncated, damaged, or not a checkpoint.
    """
    try:
        with np.load(path) as archive:
            header = json.loads(archive[_META].tobytes())
            arrays = {name: _read(archive, name, *kind) for name, kind in header["arrays"].items()}
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}.") from None
    except Exception as error:  # what damage does to zipfile and NumPy has no common type
        raise CheckpointError(f"{path} is damaged or no checkpoint of modetrain: {error}") from error
    return Checkpoint(step=header["step"], arrays=arrays, meta=header["meta"])


def restore(checkpoint: Checkpoint, state: Mapping[str, Any], path: Path) -> None:
    """Assigns every variable of `state` its value; nothing is assigned unless all can be.

    Raises:
      CheckpointError: when a variable is missing on either side, or has another shape or dtype.
    """
    wrong = [f"{name}: not in the checkpoint" for name in state if name not in checkpoint.arrays]
    wrong += [f"{name}: in the checkpoint only" for name in checkpoint.arrays if name not in state]
    for name, variable in state.items():
        saved = checkpoint.arrays.get(name)
        if saved is None:
            continue
        seen = (tuple(saved.shape), saved.dtype.name)
        wanted = (tuple(variable.shape), np.asarray(variable.numpy()).dtype.name)
        if seen != wanted:
            wrong.append(f"{name}: {seen[1]} {seen[0]} in the checkpoint, {wanted[1]} {wanted[0]} in this run")
    if wrong:
        listed = "\n  ".join(wrong[:10]) + (f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise CheckpointError(
            f"{path} is of another model or optimizer:\n  {listed}\n"
            "Resume with the recipe, model, optimizer and precision of that run (its config.yaml has them)."
        )
    for name, variable in state.items():
        variable.assign(checkpoint.arrays[name])


def digest(state: Mapping[str, Any]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all variables, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name].numpy())
        sha.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _read(archive: Mapping[str, np.ndarray], name: str, dtype: str, shape: Sequence[int]) -> np.ndarray:
    array = archive[name].view(_dtype(dtype))
    if list(array.shape) != list(shape):  # an array is read up to the length it claims, and its CRC at the true end
        raise ValueError(f"{name} claims the shape {array.shape} instead of {tuple(shape)}")
    return array


def _dtype(name: str) -> np.dtype:
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # comes with TensorFlow; gives NumPy bfloat16 and its like

        return np.dtype(getattr(ml_dtypes, name))
