"""A line of the user's code: one that made an operation, or that an error came from; and which files are the user's.

Does not import TensorFlow: processes that compare what others have computed use it too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import linecache
import os
import re
import sys
import sysconfig
import threading
import tokenize
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from modetrain.files import paths

_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_RECIPE = _PACKAGE + "recipe.py"
_SHIPPED = str(paths.shipped_dir() / "recipes") + os.sep
# Wherever packages are installed: of a virtual environment, of the user, of Debian.
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
# The most that is shown of a statement.
_MOST_LINES, _MOST_LETTERS = 20, 120
_GENERATED = "__autograph_generated_file"


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Location:
    """One line of Python.

    Attributes:
      file: path of the file.
      line: number of the line, from 1.
      function: the function it is in, where that is known; not compared.
    """

    file: str
    line: int
    function: str = dataclasses.field(default="", compare=False)

    @property
    def text(self) -> str:
        """The line itself, without its indentation."""
        return linecache.getline(self.file, self.line).strip()

    @property
    def statement(self) -> str:
        """The whole statement that begins at the line, as one line, cut where it is long."""
        rows = linecache.getlines(self.file)[self.line - 1 :][:_MOST_LINES]
        comments: dict[int, int] = {}
        try:
            for token in tokenize.generate_tokens(iter([*rows, ""]).__next__):
                if token.type == tokenize.COMMENT:
                    comments[token.start[0]] = token.start[1]
                if token.type == tokenize.NEWLINE:
                    last = token.start[0]
                    break
            else:
                return self.text
        except (tokenize.TokenError, SyntaxError, StopIteration):  # a line from the middle of a statement, no Python
            return self.text
        if last == 1:
            return self.text
        text = " ".join(" ".join(row[: comments.get(n)].split()) for n, row in enumerate(rows[:last], 1))
        text = re.sub(r",? ([)\]}])", r"\1", re.sub(r"([(\[{]) ", r"\1", text))
        return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 4]} ..."

    @property
    def shown(self) -> str:
        """`file:line`, the path as it would be typed from where the command was started."""
        return f"{paths.format_path(Path(self.file), Path.cwd())}:{self.line}"

    def __str__(self) -> str:
        return self.shown + (f"  {self.statement}" if self.text else "")


@functools.lru_cache(maxsize=4096)
def is_users(file: str) -> bool:
    """Whether a file is the user's own: neither Python's, nor an installed package's, nor the library's.

    Shipped recipes count as the user's. What is not a file (`<string>`, `<frozen runpy>`) does not: most of it is generated,
    for example by `dataclasses`. Nor does what AutoGraph generates: its own maps lead back to the user's lines.
    """
    if file.startswith(_SHIPPED):
        return True
    if file.startswith(("<", *_libraries())) or any(part in file for part in _INSTALLED):
        return False
    return _GENERATED not in file


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Folders of the library, of Python, of TensorFlow and of Keras."""
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    for name in ("tensorflow", "keras"):
        module = sys.modules.get(name)
        spec = importlib.util.find_spec(name) if module is None else None
        file = spec.origin if spec is not None else getattr(module, "__file__", None)
        if file is not None:
            folders.add(str(Path(file).parent))
    folders |= {os.path.realpath(folder) for folder in folders}
    return (_PACKAGE, *(folder + os.sep for folder in sorted(folders)))


def of_class(cls: type) -> str:
    """The file and line of a class, as they would be typed; its module where it was not written in a file."""
    try:
        return Location(file=inspect.getfile(cls), line=inspect.getsourcelines(cls)[1]).shown
    except (OSError, TypeError):
        return cls.__module__


def is_generated(file: str) -> bool:
    """Whether AutoGraph has generated a file from the user's code."""
    return _GENERATED in file


def innermost(frames: Iterable[tuple[str, int, str]]) -> Location | None:
    """The last of the user's own frames (file, line, function), outermost first; None where there is none."""
    found = None
    for file, line, function in _of_step(list(frames)):
        if is_users(file):
            found = Location(file=file, line=line, function=function)
    return found


def of_caller() -> Location | None:
    """The innermost of the user's lines that are running now, within the running step."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if file == _RECIPE and function == "run_train_step":
            return None
        if is_users(file):
            return Location(file=file, line=frame.f_lineno, function=function)
        frame = frame.f_back
    return None


def of_threads() -> list[Location]:
    """The innermost of the user's lines that each other thread is at, in order.

    Lines that call the library, such as those of the user's script, do not count.
    """
    found = set()
    for thread, frame in sys._current_frames().items():
        stack = [(f.f_code.co_filename, line, f.f_code.co_name) for f, line in traceback.walk_stack(frame)][::-1]
        called = next((n for n, (file, _, _) in enumerate(stack) if file.startswith(_PACKAGE)), 0)
        if thread != threading.get_ident() and (at := innermost(stack[called:])) is not None:
            found.add(at)
    return sorted(found)


def _of_step(frames: list[tuple[str, int, str]]) -> list[tuple[str, int, str]]:
    """The frames within the running step, without those that call the library."""
    starts = [n for n, (file, _, function) in enumerate(frames) if file == _RECIPE and function == "run_train_step"]
    return frames[starts[-1] + 1 :] if starts else frames
