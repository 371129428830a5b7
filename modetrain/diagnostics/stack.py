"""Which lines of a stack are the user's own: not TensorFlow's, Keras's, modetrain's or any other library's.

Stacks come from `tf_stack`, which maps the code that AutoGraph generates back to the lines the user has written.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.autograph.impl import api
from tensorflow.python.autograph.pyct import origin_info
from tensorflow.python.util import tf_stack

from modetrain.diagnostics.location import Location, is_generated, is_users

_MODETRAIN = str(Path(__file__).parents[1]) + os.sep
# What watches a step as it is traced: its frames lie around the user's lines, and what it makes itself is not theirs.
_GUARDS = os.path.join(_MODETRAIN, "engine", "guards", "")
_WATCHERS = (os.path.join(_MODETRAIN, "tools", "inspect", ""), _GUARDS, __file__)
# Lies around the making of every operation of a step that is guarded.
_BODIES = f"{_GUARDS}bodies.py"
_PROGRAM = os.path.join(_MODETRAIN, "engine", "program.py")
_FRAMEWORKS = (*(str(Path(file).parent) + os.sep for file in (tf.__file__, keras.__file__)), _MODETRAIN)
# AutoGraph calls functions on behalf of the line that it has converted.
_AUTOGRAPH = tuple(
    str(Path(tf.__file__).parent / "python" / "autograph" / part) + os.sep for part in ("impl", "operators")
)
# Of Keras; its variables and functions do what their caller says.
_LAYERS = tuple(f"{os.sep}{part}{os.sep}" for part in ("layers", "models", "metrics", "optimizers"))


def is_modetrains(filename: str) -> bool:
    """Whether a file is modetrain's own."""
    return filename.startswith(_MODETRAIN)


@functools.lru_cache(maxsize=4096)
def acts_for_its_caller(filename: str) -> bool:
    """Whether code in this file does what the user's line asked for: AutoGraph, the standard library, a logging package.

    What TensorFlow, Keras and modetrain do of their own accord is not the user's doing.
    """
    if filename.startswith((*_AUTOGRAPH, *_WATCHERS)) or is_generated(filename):
        return True
    return not filename.startswith(_FRAMEWORKS) and not is_users(filename)


def is_users_call(frame: types.FrameType) -> bool:
    """Whether what a frame calls is called by the user's line itself, as it is written or as AutoGraph has converted it."""
    name = frame.f_code.co_filename
    return is_users(name) or is_generated(name) or (name.startswith(_AUTOGRAPH) and "call" in frame.f_code.co_name)


def of_stack(stack: Sequence[Any], *, direct: bool = False) -> Location | None:
    """The innermost of the user's lines in a stack of a trace, or None.

    Args:
      stack: frames, outermost first, with `filename` and `lineno`.
      direct: only if nothing but `acts_for_its_caller` lies between that line and the end of the stack.
    """
    for frame in inside_trace(stack):
        if is_users(frame.filename):
            return Location(file=frame.filename, line=frame.lineno)
        if is_generated(frame.filename) and (place := _before_conversion(frame.filename, frame.lineno)) is not None:
            return place
        if direct and not acts_for_its_caller(frame.filename):
            return None
    return None


def _before_conversion(filename: str, line: int) -> Location | None:
    """The line that AutoGraph made a line of, where `tf_stack` no longer says so: a gradient runs later than its function."""
    for factories in api._TRANSPILER._cache._cache.values():
        for factory in factories.values():
            if factory.module.__file__ != filename:
                continue
            origin = factory.source_map.get(origin_info.LineLocation(filename=filename, lineno=line))
            if origin is not None and is_users(origin.loc.filename):
                return Location(file=origin.loc.filename, line=origin.loc.lineno)
    return None


def inside_trace(stack: Sequence[Any]) -> Iterable[Any]:
    """The frames of a stack from the innermost one out to where the library began to trace the step."""
    seen_others = False
    for frame in reversed(stack):
        if frame.filename == _BODIES:
            continue
        mine = frame.filename.startswith(_WATCHERS)
        if (mine and seen_others) or frame.filename == _PROGRAM:
            return
        if not mine:
            seen_others = True
            yield frame


def here(*, direct: bool = False) -> Location | None:
    """The user's line that is being run, as `of_stack` finds it."""
    return of_stack(list(tf_stack.extract_stack()), direct=direct)


def of_op(op: tf.Operation) -> Location | None:
    """The user's line that made an operation."""
    return of_stack(list(op.traceback))


def made_by_modetrain(op: tf.Operation) -> bool:
    """Whether modetrain made the operation on behalf of the user's line: an optimizer's update, say."""
    for frame in inside_trace(list(op.traceback)):
        if is_users(frame.filename):
            return False
        if is_modetrains(frame.filename):
            return True
    return True


def made_by_layer(op: tf.Operation) -> bool:
    """Whether a Keras layer made the operation, and the user's line only called the layer."""
    return by_layer(list(op.traceback))


def by_layer(stack: Sequence[Any]) -> bool:
    """Whether what a stack of a trace is of is the doing of a Keras layer, which the user's line only called."""
    for frame in inside_trace(stack):
        if is_users(frame.filename):
            return False
        if frame.filename.startswith(_FRAMEWORKS[1]) and any(part in frame.filename for part in _LAYERS):
            return True
    return False
