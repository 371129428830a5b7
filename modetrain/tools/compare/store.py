"""Results of variants by name, in files that other processes read, or in memory.

    store.put("eager/3", observation)
    store.get("eager/3")

The observation of step 3 of a variant is `<variant>/3`, its report `<variant>/report`.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from modetrain.files import atomic
from modetrain.tools.compare.observation import Observation, State

INITIAL = "initial"
_REQUIRED = object()


class ResultStore:
    """Values by name.

    Args:
      folder: where the files are; None keeps values in memory.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._memory: dict[str, Any] = {}

    def put(self, name: str, value: Any) -> None:
        """Keeps a value."""
        if self.folder is None:
            self._memory[name] = value
            return
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))

    def get(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value of that name.

        Args:
          name: of the value.
          default: what to return where there is none.

        Raises:
          KeyError: there is no such value, and no default.
        """
        if name in self._memory:
            return self._memory[name]
        try:
            if self.folder is not None:
                return pickle.loads(self._path(name).read_bytes())
        except (FileNotFoundError, EOFError):
            pass
        if default is _REQUIRED:
            raise KeyError(name)
        return default

    def has(self, name: str) -> bool:
        """Whether there is such a value."""
        return name in self._memory or (self.folder is not None and self._path(name).exists())

    def observation(self, variant: str, number: int) -> Observation:
        """What a variant's step did."""
        return self.get(f"{variant}/{number}")

    def state_before(self, reference: str, number: int) -> State:
        """The state that a step begins from: the one that the reference had there."""
        return self.get(INITIAL) if number == 0 else self.observation(reference, number - 1).state

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.pickle"


class ReadOnlyStore(ResultStore):
    """The store of a worker that is not the chief: it reads the files, and keeps its own results in memory."""

    def put(self, name: str, value: Any) -> None:
        """Keeps a value in memory."""
        self._memory[name] = value
