"""A place in the user's code: the line that made an operation, or that an error came from."""

from __future__ import annotations

import dataclasses
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

import modetrain
from modetrain import paths

_PACKAGE = str(Path(modetrain.__file__).parent) + os.sep
_RECIPE = _PACKAGE + "recipe.py"
_LIBRARIES = tuple(
    dict.fromkeys(
        str(Path(folder)) + os.sep for folder in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """One line of the user's code.

    Attributes:
      file, line: where.
      function: the function it is in.
      text: the line itself.
    """

    file: str
    line: int
    function: str
    text: str

    def __str__(self) -> str:
        return f"{paths.shown(Path(self.file), Path.cwd())}:{self.line}" + (f"  {self.text}" if self.text else "")


def is_users(file: str) -> bool:
    """Whether a file is the user's own: neither Python's, nor an installed package's, nor the library's."""
    if file.startswith(str(paths.shipped() / "recipes") + os.sep):
        return True
    return not file.startswith((_PACKAGE, *_LIBRARIES, "<")) and "__autograph_generated_file" not in file


def _of_step(frames: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """The frames within the step under way: who called the library is not to be named."""
    starts = [n for n, (file, _, function) in enumerate(frames) if file == _RECIPE and function == "run_train_step"]
    return frames[starts[-1] + 1 :] if starts else frames


def innermost(frames: Iterable[tuple[str, int, str]]) -> Place | None:
    """The last of the user's own frames (file, line, function), outermost first; None where there is none."""
    found = None
    for file, line, function in _of_step(list(frames)):
        if is_users(file):
            found = (file, line, function)
    return None if found is None else at(*found)


def at(file: str, line: int, function: str = "") -> Place:
    """The place of a line."""
    return Place(file=file, line=line, function=function, text=linecache.getline(file, line).strip())


def of_caller() -> Place | None:
    """The innermost of the user's lines that are running now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if file == _RECIPE and function == "run_train_step":
            return None
        if is_users(file):
            return at(file, frame.f_lineno, function)
        frame = frame.f_back
    return None
