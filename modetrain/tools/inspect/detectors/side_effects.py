"""Hears what a step does to the world outside the graph while it is traced: printing, logging, files, clocks, random numbers.

    with Calls(reached, namespaces) as calls:
        ...                                    # trace
    calls.heard                                # [Call(code="MT101", place=..., name="print")]

Functions are exchanged for ones that note the user's line and go on to the original. A name that the user's module has
imported itself (`from time import time as now`) is exchanged there too. Everything is put back at the end.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import inspect as python_inspect
import logging
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.pyct import origin_info
from tensorflow.python.util import tf_stack

from modetrain.diagnostics import stack as lines
from modetrain.diagnostics.location import Location, is_users
from modetrain.tools.inspect.detectors import outside_calls

# A generator made with a seed asks the machine for numbers too, and throws them away.
_SEEDED = re.compile(r"\b(RandomState|MT19937)\([^)\s]")
# What these do on the way to a handler (take the time, write to stderr, open a file) is no doing of the line that logs.
_LOGGING = {(logging.__file__, "_log"), (logging.__file__, "handle")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """A call that was heard.

    Attributes:
      code: what it means.
      place: the user's line.
      name: what was called.
    """

    code: str
    place: Location
    name: str


class Calls:
    """Hears calls within a `with` block.

    Args:
      functions: the user's functions that may run: names in their modules are exchanged too.
      namespaces: more dictionaries whose values are exchanged, such as `vars(recipe)`.
      silent: keeps what is printed from the screen.

    Attributes:
      heard: the calls, in order.
    """

    def __init__(
        self,
        functions: Iterable[types.FunctionType] = (),
        namespaces: Iterable[MutableMapping[str, Any]] = (),
        *,
        silent: bool = False,
    ):
        modules = {id(function.__globals__): function.__globals__ for function in functions}
        self._namespaces = [*modules.values(), *namespaces]
        self._silent = silent
        self._undo: list[Callable[[], None]] = []
        self.heard: list[Call] = []
        self._busy = False

    def __enter__(self) -> Calls:
        replaced: dict[int, tuple[Any, Any]] = {}
        for holder, names, code in outside_calls.TABLE:
            for name in names:
                original = vars(holder).get(name)
                if original is not None:
                    made = name == "__init__"
                    mine = self._hearing_made(original, code) if made else self._hearing(original, code, name)
                    self._exchange(holder, name, mine)
                    replaced[id(original)] = (original, mine)
        self._hear_dates(replaced)
        for stream in ("stdout", "stderr"):
            self._exchange(sys, stream, _Stream(getattr(sys, stream), self, stream, self._silent))
        self._exchange_variables()
        self._exchange(origin_info, "resolve_entity", _resolve_entity)
        for namespace in self._namespaces:
            for name, value in list(namespace.items()):
                if (known := replaced.get(id(value))) and known[0] is value:
                    self._exchange_in(namespace, name, known[1])
        return self

    def __exit__(self, *error: object) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def note(self, code: str, name: str) -> None:
        """Remembers a call by the line that is being run, if that line is the user's doing."""
        if self._busy:
            return
        self._busy = True
        try:
            stack = list(tf_stack.extract_stack())
            place = lines.of_stack(stack, direct=code not in (outside_calls.MADE, outside_calls.GLOBAL_SEEDS))
            if code != "MT102" and _is_within_logging(stack):
                return
        finally:
            self._busy = False
        if place is not None and not (name == "_urandom" and _SEEDED.search(place.statement)):
            call = Call(code=code, place=place, name=name)
            if call not in self.heard:
                self.heard.append(call)

    # --- private ----------------------------------------------------------------------------------------------------

    def _hearing(self, original: Any, code: str, name: str) -> Any:
        note = self.note
        silent = self._silent

        if name == "isEnabledFor":  # asked by every method of a logger, whether or not anything is written

            def enabled(logger: logging.Logger, level: int) -> bool:
                written = original(logger, level)
                if written or not _is_silenced(logger, level):
                    note(code, f"{logger.name}: {logging.getLevelName(level)}")
                return written and not silent

            return tf.autograph.experimental.do_not_convert(enabled)

        if name == "default_rng" or code == outside_calls.UNSEEDED:
            code_ = "MT301"

            def seeded(*args: Any, **kwargs: Any) -> Any:
                # With a seed it makes the same numbers at each trace, and at each eager step.
                if not args and not kwargs and _may_be_users(sys._getframe(1).f_code.co_filename):
                    note(code_, f"{name} without a seed")
                return original(*args, **kwargs)

            return tf.autograph.experimental.do_not_convert(seeded)

        if code == outside_calls.GLOBAL_SEEDS:

            def drawing() -> Any:
                note(code, "keras.random without a seed")
                return original()

            return drawing

        asked = code in outside_calls.ASKED
        code = outside_calls.ASKED.get(code, code)

        def hearing(*args: Any, **kwargs: Any) -> Any:
            # Most calls come from libraries: those are told apart before a stack is taken.
            caller = sys._getframe(2)  # past the wrapper of `do_not_convert`
            if lines.is_users_call(caller) if asked else _may_be_users(caller.f_code.co_filename):
                note(code, name)
                if silent and code == "MT104":
                    return ""
            return original(*args, **kwargs)

        return tf.autograph.experimental.do_not_convert(hearing)

    def _hearing_made(self, original: Any, code: str) -> Any:
        note = self.note

        @functools.wraps(original)
        def made(thing: Any, *args: Any, **kwargs: Any) -> None:
            note(code, _made_name(thing))
            original(thing, *args, **kwargs)

        return made

    def _hear_dates(self, replaced: dict[int, tuple[Any, Any]]) -> None:
        """Exchanges the types whose methods tell the time, which cannot be changed themselves."""
        for name in ("datetime", "date"):
            original = getattr(datetime, name)
            mine = _hearing_date(original, self.note)
            self._exchange(datetime, name, mine)
            replaced[id(original)] = (original, mine)

    def _exchange_variables(self) -> None:
        from tensorflow.python.eager.polymorphic_function import polymorphic_function
        from tensorflow.python.ops import resource_variable_ops

        for cls in (polymorphic_function.UnliftedInitializerVariable, resource_variable_ops.ResourceVariable):
            self._exchange(cls, "__init__", self._hearing_made(vars(cls)["__init__"], outside_calls.MADE))

    def _exchange(self, holder: Any, name: str, mine: Any) -> None:
        original = vars(holder)[name]
        setattr(holder, name, mine)
        self._undo.append(lambda: setattr(holder, name, original))

    def _exchange_in(self, namespace: MutableMapping[str, Any], name: str, mine: Any) -> None:
        original = namespace[name]
        namespace[name] = mine

        def undo() -> None:
            if namespace.get(name) is mine:
                namespace[name] = original

        self._undo.append(undo)


def _resolve_entity(node: Any, source: str, entity: Any) -> None:
    """`origin_info.resolve_entity`, but for a wrapper made by `functools.wraps`.

    Python's `inspect` takes such a wrapper for what it wraps, and AutoGraph would count its lines from there.
    """
    lines_, first = python_inspect.getsourcelines(getattr(entity, "__code__", entity))
    file = python_inspect.getsourcefile(getattr(entity, "__code__", entity))
    origin_info.resolve(node, source, file, first, python_inspect.indentsize(lines_[0]))


def _is_silenced(logger: logging.Logger, level: int) -> bool:
    """Whether somebody has said what the logger writes: what it then leaves out, no mode writes.

    Without that Python leaves out what is less than a warning; whoever logs so expects to see it once a level is set.
    """
    at: logging.Logger | None = logger
    while at is not None and at.parent is not None:
        if at.level != logging.NOTSET:
            return True
        at = at.parent
    return logger.disabled or logging.root.level != logging.WARNING or logger.manager.disable >= level


def _is_within_logging(stack: Sequence[Any]) -> bool:
    """Whether a logger or `warnings` is at work for the innermost of the user's lines."""
    for frame in lines.inside_trace(stack):
        if is_users(frame.filename):
            return False
        if (frame.filename, frame.name) in _LOGGING or frame.filename == warnings.__file__:
            return True
    return False


def _made_name(thing: Any) -> str:
    return "tf.Variable" if isinstance(thing, tf.Variable) else type(thing).__name__


def _may_be_users(filename: str) -> bool:
    return is_users(filename) or lines.acts_for_its_caller(filename)


class _Stream:
    """A stream that notes who writes to it; everything else is the original's."""

    def __init__(self, stream: Any, calls: Calls, name: str, silent: bool):
        self._stream, self._calls, self._name, self._silent = stream, calls, name, silent

    @tf.autograph.experimental.do_not_convert
    def write(self, text: str) -> int:
        if _may_be_users(sys._getframe(1).f_code.co_filename):
            self._calls.note("MT101", f"sys.{self._name}.write")
        return len(text) if self._silent else self._stream.write(text)

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _hearing_date(original: Any, note: Callable[[str, str], None]) -> Any:
    """A type that stands in for `datetime.datetime` or `datetime.date`."""

    class Hearing(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, original)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs)

        def __getattr__(cls, name: str) -> Any:
            return getattr(original, name)

    def telling(name: str) -> Any:
        def tell(*args: Any, **kwargs: Any) -> Any:
            note("MT302", f"{original.__name__}.{name}")
            return getattr(original, name)(*args, **kwargs)

        return staticmethod(tf.autograph.experimental.do_not_convert(tell))

    methods: Mapping[str, Any] = {name: telling(name) for name in ("now", "utcnow", "today") if hasattr(original, name)}
    return Hearing(original.__name__, (), {"__module__": "datetime", **methods})
