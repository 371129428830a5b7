"""The shelf: where arms leave what they found, in files that other processes read, or in memory.

shelf.put("eager/3", seen)
shelf.get("eager/3")
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from modetrain.tools.compare.observation import State

INITIAL = "initial"


class Shelf:
    """Things by name, in a folder so that other processes find them, or in memory.

    Args:
      folder: where to keep them; None is memory.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._here: dict[str, Any] = {}

    def put(self, name: str, thing: Any) -> None:
        """Keeps a thing."""
        if self.folder is None:
            self._here[name] = thing
            return
        path = self.folder / f"{name}.pickle"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with open(partial, "wb") as file:
            pickle.dump(thing, file, protocol=pickle.HIGHEST_PROTOCOL)
        os.replace(partial, path)  # whole or not at all

    def get(self, name: str) -> Any:
        """The thing of that name; KeyError where nobody has put it."""
        if self.folder is None:
            return self._here[name]
        try:
            with open(self.folder / f"{name}.pickle", "rb") as file:
                return pickle.load(file)
        except (FileNotFoundError, EOFError):
            raise KeyError(name) from None

    def has(self, name: str) -> bool:
        """Whether there is such a thing."""
        return name in self._here if self.folder is None else (self.folder / f"{name}.pickle").exists()


def before(shelf: Shelf, reference: str, number: int) -> State:
    """The state that step `number` begins from: the one that the reference had there."""
    return shelf.get(INITIAL) if number == 0 else shelf.get(f"{reference}/{number - 1}").state
