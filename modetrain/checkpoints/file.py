"""A checkpoint: a file that holds every variable by name, the step, and a description of the run.

A checkpoint exists completely or not at all. Reading it proves that it is unchanged: the file holds a SHA-256 of all names,
dtypes, shapes, bytes and other values. `checkpoints/index.json` holds the SHA-256 of each file, so that a missing or exchanged
file is detected. `run_folder.py` has the paths of a run's checkpoints, `archive.py` the layout of the arrays.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modetrain.checkpoints import archive
from modetrain.errors import ConfigError
from modetrain.files import atomic, run_folder

INDEX = run_folder.INDEX


class CheckpointError(ConfigError):
    """A checkpoint that cannot be restored."""


class NotFiniteError(ArithmeticError):
    """A checkpoint was not written, because weights are NaN or infinite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """What a checkpoint file holds.

    Attributes:
      step: updates completed.
      arrays: value of each variable by name.
      meta: other values (JSON).
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]


def known_steps(folder: Path) -> list[int]:
    """Steps of a run folder's checkpoints, and of those that its index lists, ascending."""
    listed = (run_folder.step_of(Path(name)) for name in read_index(folder / run_folder.CHECKPOINTS))
    return sorted({*run_folder.steps(folder), *(step for step in listed if step is not None)})


def copy_values(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Copies of the current values of variables (anything with `.numpy()`); later updates do not change them."""
    return {name: np.asarray(variable.numpy()) for name, variable in state.items()}  # `numpy` copies


def check(state: Mapping[str, Any], *, owner: str) -> None:
    """Refuses variables that a file cannot hold: writes their names and dtypes in memory, reads them back and compares.

    Args:
      state: variables by name.
      owner: class of the recipe, for the message.

    Raises:
      ConfigError: a file cannot hold a dtype, or a name does not come back.
    """
    dtypes = {name: _dtype_of(variable) for name, variable in state.items()}
    bad = [f"{name} ({dtype})" for name, dtype in dtypes.items() if not archive.holds(dtype)]
    bad += [f"{name} (of unknown rank)" for name, v in state.items() if getattr(v.shape, "rank", 0) is None]
    if bad:
        raise ConfigError(
            f"{owner} has variables that no checkpoint can hold: {', '.join(bad)}. A checkpoint holds numbers and booleans of "
            "known rank, so this run could not be saved. Keep text in a plain attribute (a str, or a tf.constant), or an "
            "integer for it in the variable."
        )
    # One element each, alternating 0 and 1: this checks names and dtypes at no cost.
    given = {n: np.full([1], index % 2, archive.dtype_of(d)) for index, (n, d) in enumerate(dtypes.items())}
    file = io.BytesIO()
    try:
        archive.write(file, given, {})
        _, found, sha, written = archive.read(file)
    except Exception as error:
        raise ConfigError(
            f"{owner} has names of variables that no checkpoint can hold ({error}): {list(dtypes)}."
        ) from error
    lost = [name for name, array in given.items() if name not in found or found[name].tobytes() != array.tobytes()]
    if lost or sha != written or len(found) != len(given):
        raise ConfigError(
            f"{owner} has variables that do not come back from a checkpoint: {lost}. Rename their attributes."
        )


def save(path: Path, state: Mapping[str, Any], *, step: int, meta: Mapping[str, Any]) -> str:
    """Writes a checkpoint; a crash at any moment leaves either the whole file or none under its name.

    Args:
      path: the file.
      state: variables by name, or their copies from `copy_values`.
      step: updates completed.
      meta: other values, as JSON.

    Returns:
      The SHA-256 of the contents.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {n: v if isinstance(v, np.ndarray) else np.asarray(v.numpy()) for n, v in state.items()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            sha = archive.write(file, arrays, {"step": step, "meta": dict(meta)})
        atomic.flush(partial)
        atomic.replace(partial, path)
        atomic.flush(path.parent)
    except Exception:
        partial.unlink(missing_ok=True)  # on a full disk it takes space that is needed
        raise
    return sha


def load(path: Path) -> CheckpointFile:
    """Reads a checkpoint, and proves that it is unchanged.

    Raises:
      CheckpointError: the file is missing, truncated, damaged, exchanged, or no checkpoint.
    """
    try:
        header, arrays, sha, kept = archive.read(path)
    except FileNotFoundError:
        listed = f", though {INDEX} lists it" if path.name in read_index(path.parent) else ""
        raise CheckpointError(f"there is no checkpoint {path}{listed}.") from None
    except Exception as error:  # zipfile and NumPy have no common error for damage
        raise CheckpointError(f"{path} is damaged or no checkpoint of modetrain: {str(error).rstrip('.')}.") from error
    if kept != sha:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is {sha[:12]}... and was {kept[:12]}... when it was written."
        )
    if run_folder.step_of(path) not in (None, header["step"]):
        raise CheckpointError(f"{path} is another file under this name: it holds step {header['step']}.")
    listed = read_index(path.parent).get(path.name, sha)
    if listed != sha:
        raise CheckpointError(
            f"{path} is another file under this name: SHA-256 {sha[:12]}... instead of {listed[:12]}... in {INDEX}."
        )
    return CheckpointFile(step=header["step"], arrays=arrays, meta=header["meta"])


def restore(
    checkpoint: CheckpointFile, state: Mapping[str, Any], path: Path, *, zero_if_missing: Collection[str] = ()
) -> list[str]:
    """Assigns every variable of `state` its value; assigns either all or none.

    Args:
      checkpoint: what the file holds.
      state: variables by name.
      path: the file, for messages.
      zero_if_missing: names that older versions did not save; such a variable becomes zero if the checkpoint lacks it.

    Returns:
      The names of the variables that became zero.

    Raises:
      CheckpointError: a variable is missing on either side, or has another shape or dtype.
    """
    missing = [name for name in state if name not in checkpoint.arrays]
    zeros = [name for name in missing if name in zero_if_missing]
    wrong = [f"{name}: not in the checkpoint" for name in missing if name not in zeros]
    wrong += [f"{name}: in the checkpoint only" for name in checkpoint.arrays if name not in state]
    wrong += [f"{name}: {why}" for name, v in state.items() if (why := misfit(checkpoint.arrays.get(name), v))]
    if wrong:
        listed = "\n  ".join(wrong[:10]) + (f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise CheckpointError(
            f"{path} belongs to another model or optimizer:\n  {listed}\n"
            "Resume with the recipe, model, optimizer and precision of that run (its config.yaml has them)."
        )
    for name, variable in state.items():
        variable.assign(np.zeros_like(variable.numpy()) if name in zeros else checkpoint.arrays[name])
    return zeros


def misfit(saved: np.ndarray | None, variable: Any) -> str | None:
    """Why a saved value does not fit a variable, in words; None if it fits, or there is no value."""
    if saved is None:
        return None
    seen = (tuple(saved.shape), saved.dtype.name)
    wanted = (tuple(variable.shape), np.asarray(variable.numpy()).dtype.name)
    # A variable's shape may have unknown dimensions.
    shapes_fit = len(seen[0]) == len(wanted[0]) and all(w in (None, s) for s, w in zip(seen[0], wanted[0], strict=True))
    if shapes_fit and seen[1] == wanted[1]:
        return None
    return f"{seen[1]} {seen[0]} in the checkpoint, {wanted[1]} {wanted[0]} in this run"


def digest(state: Mapping[str, Any]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of all variables, in the order of their names."""
    return archive.compute_sha({name: np.asarray(variable.numpy()) for name, variable in state.items()})


def _dtype_of(variable: Any) -> str:
    """The name of the dtype of a variable's value in NumPy, or TensorFlow's name if a file cannot hold that dtype."""
    name = str(getattr(variable.dtype, "name", variable.dtype))
    if archive.holds(name):  # this avoids a copy of a large variable
        return name
    try:
        inner = np.asarray(variable.numpy()).dtype.name  # TensorFlow's quantized integers are plain ones in NumPy
    except Exception:  # handles and variants have no value in NumPy
        return name
    return inner if archive.holds(inner) else name


# --- the index -------------------------------------------------------------------------------------------------------


def read_index(folder: Path) -> dict[str, str]:
    """SHA-256 by file name of a folder of checkpoints; empty if its index cannot be read."""
    try:
        found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: sha for name, sha in found.items() if isinstance(sha, str)} if isinstance(found, dict) else {}


def check_index(folder: Path) -> str | None:
    """Why the index cannot show whether a file was exchanged, in words; None if it can."""
    file = folder / INDEX
    if not file.exists():
        return f"{file} is missing"
    return None if read_index(folder) else f"{file} cannot be read"


def remove_from_index(folder: Path, index: dict[str, str], names: Sequence[str]) -> None:
    """Removes files from the index before they are removed or replaced: a crash in between must not leave a wrong entry."""
    if any(index.pop(name, None) for name in names):
        write_index(folder, index)


def write_index(folder: Path, index: Mapping[str, str]) -> None:
    """Replaces the index at once."""
    atomic.write_text(folder / INDEX, json.dumps(dict(sorted(index.items())), indent=1) + "\n")
