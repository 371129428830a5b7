"""Records what a step does outside the graph while it is traced: printing, logging, files, clocks, random numbers.

    with CallRecorder(functions, namespaces) as recorder:
        ...                                    # trace
    recorder.calls                             # [RecordedCall(code="MT101", place=..., name="print")]

Functions are replaced by ones that record the user's line and go on to the original. A name that the user's module has
imported itself (`from time import time as now`) is replaced there too. Everything is restored at the end.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import inspect as python_inspect
import logging
import re
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.autograph.pyct import origin_info
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.ops import resource_variable_ops
from tensorflow.python.util import tf_stack

from modetrain.diagnostics import stack as lines
from modetrain.diagnostics.location import is_users
from modetrain.engine.replaced import replaced
from modetrain.engine.variables import iter_attributes
from modetrain.recipe import Recipe
from modetrain.tools.inspect.detectors import intercepted_functions
from modetrain.tools.inspect.detectors.recorded_calls import CallLog

# A generator made with a seed asks the machine for numbers too, and drops them.
_SEEDED = re.compile(r"\b(RandomState|MT19937)\([^)\s]")
# What these do on the way to a handler (take the time, write to stderr, open a file) is not done by the line that logs.
_LOGGING = {(logging.__file__, "_log"), (logging.__file__, "handle")}
_not_converted = tf.autograph.experimental.do_not_convert


class CallRecorder(CallLog):
    """Records calls within a `with` block.

    Args:
      functions: the user's functions that may run: names in their modules are replaced too.
      namespaces: more dictionaries whose values are replaced, such as `vars(recipe)`.
      silent: keeps what is printed from the screen.
    """

    def __init__(
        self,
        functions: Iterable[types.FunctionType] = (),
        namespaces: Iterable[MutableMapping[str, Any]] = (),
        *,
        silent: bool = False,
    ):
        super().__init__()
        modules = {id(function.__globals__): function.__globals__ for function in functions}
        self._namespaces = [*modules.values(), *namespaces]
        self._silent = silent
        self._variables: list[Any] = []  # that were made
        self._undo = contextlib.ExitStack()
        self._thread = threading.current_thread()
        self._busy = False

    def __enter__(self) -> CallRecorder:
        replaced: dict[int, tuple[Any, Any]] = {}  # by id of the original
        for holder, names, code in intercepted_functions.TABLE:
            for name in names:
                original = vars(holder).get(name)
                if original is not None:
                    replaced[id(original)] = (
                        original,
                        self._replace(holder, name, self._recording(original, code, name)),
                    )
        for name in ("datetime", "date"):  # types, whose methods cannot be replaced
            original = getattr(datetime, name)
            replaced[id(original)] = original, self._replace(datetime, name, _recording_date(original, self.record))
        for stream in ("stdout", "stderr"):
            self._replace(sys, stream, _Stream(getattr(sys, stream), self, stream, self._silent))
        for cls in (polymorphic_function.UnliftedInitializerVariable, resource_variable_ops.ResourceVariable):
            self._replace(cls, "__init__", self._recording_made(vars(cls)["__init__"], intercepted_functions.MADE))
        self._replace(origin_info, "resolve_entity", _resolve_entity)
        for namespace in self._namespaces:
            for name, value in list(namespace.items()):
                if (known := replaced.get(id(value))) and known[0] is value:
                    self._replace_in(namespace, name, known[1])
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    def record(self, code: str, name: str) -> bool:
        """Records a call by the line that is being run, if the user's code makes it; returns whether it does."""
        thread = threading.current_thread()
        # MirroredStrategy runs replicas in threads of its own; what the user's threads do is not done by the step.
        if self._busy or (thread is not self._thread and not type(thread).__module__.startswith("tensorflow.")):
            return False
        self._busy = True
        try:
            stack = list(tf_stack.extract_stack())
            indirect = code in (intercepted_functions.MADE, intercepted_functions.GLOBAL_SEEDS)
            place = lines.of_stack(stack, direct=not indirect)
            if code != "MT102" and _is_within_logging(stack):
                return False
        finally:
            self._busy = False
        if place is not None and not (name == "_urandom" and _SEEDED.search(place.statement)):
            self.add(code, place, name)
        return place is not None

    def made_only_what_is_kept(self, recipe: Recipe) -> bool:
        """Whether all variables that were made are the recipe's, and those that are weights are updated.

        So are the slots that a Keras optimizer makes as it is first used, and the weights of a model that is built then.
        """
        state = recipe.state().values()
        held = {id(one.value) for one in state if isinstance(one, keras.Variable)} | set(map(id, state))
        made = {id(one) for one in self._variables}
        weights = {
            id(one) for one in state if isinstance(one, keras.Variable) and one.trainable and id(one.value) in made
        }
        trained = {id(one) for optimizer in recipe.optimizers().values() for one in optimizer.trainable}
        of_keras = [one for _, one in iter_attributes(recipe) if isinstance(one, keras.optimizers.Optimizer)]
        trained |= {id(one) for optimizer in of_keras for one in optimizer._trainable_variables}
        return made <= held and weights <= trained

    # --- private ----------------------------------------------------------------------------------------------------

    def _recording(self, original: Any, code: str, name: str) -> Any:
        """A function that records its call and calls the original."""
        if name == "__init__":
            return self._recording_made(original, code)
        if name == "isEnabledFor":
            return _not_converted(self._recording_logger(original, code))
        if code == intercepted_functions.UNSEEDED:
            return _not_converted(self._recording_unseeded(original, name))
        if code == intercepted_functions.GLOBAL_SEEDS:
            return self._recording_global_seeds(original, code)
        by_user = code in intercepted_functions.CALLED_BY_USER
        code = intercepted_functions.CALLED_BY_USER.get(code, code)

        def recording(*args: Any, **kwargs: Any) -> Any:
            # Most calls come from libraries: those are left out before a stack is taken.
            caller = sys._getframe(2)  # past the wrapper of `do_not_convert`
            if lines.is_users_call(caller) if by_user else _may_be_users(caller.f_code.co_filename):
                self.record(code, name)
                if self._silent and code == "MT104":
                    return ""
            return original(*args, **kwargs)

        return _not_converted(recording)

    def _recording_logger(self, original: Any, code: str) -> Any:
        def is_enabled_for(logger: logging.Logger, level: int) -> bool:
            """Every method of a logger asks this first, whether or not anything is written."""
            written = original(logger, level)
            if written or not _is_silenced(logger, level):
                self.record(code, f"{logger.name}: {logging.getLevelName(level)}")
            return written and not self._silent

        return is_enabled_for

    def _recording_unseeded(self, original: Any, name: str) -> Any:
        def make_generator(*args: Any, **kwargs: Any) -> Any:
            # With a seed it makes the same numbers at each trace, and at each eager step.
            if not args and not kwargs and _may_be_users(sys._getframe(1).f_code.co_filename):
                self.record("MT301", f"{name} without a seed")
            return original(*args, **kwargs)

        return make_generator

    def _recording_global_seeds(self, original: Any, code: str) -> Any:
        def global_seed_generator() -> Any:
            self.record(code, "keras.random without a seed")
            return original()

        return global_seed_generator

    def _recording_made(self, original: Any, code: str) -> Any:
        @functools.wraps(original)
        def made(thing: Any, *args: Any, **kwargs: Any) -> None:
            name = "tf.Variable" if isinstance(thing, tf.Variable) else type(thing).__name__
            if self.record(code, name) and isinstance(thing, tf.Variable):
                self._variables.append(thing)
            original(thing, *args, **kwargs)

        return made

    def _replace(self, holder: Any, name: str, replacement: Any) -> Any:
        self._undo.enter_context(replaced(holder, **{name: replacement}))
        return replacement

    def _replace_in(self, namespace: MutableMapping[str, Any], name: str, replacement: Any) -> None:
        original = namespace[name]
        namespace[name] = replacement

        def undo() -> None:
            if namespace.get(name) is replacement:
                namespace[name] = original

        self._undo.callback(undo)


def _resolve_entity(node: Any, source: str, entity: Any) -> None:
    """`origin_info.resolve_entity`, corrected for wrappers made by `functools.wraps`.

    Python's `inspect` takes such a wrapper for what it wraps, and AutoGraph would count its lines from there.
    """
    lines_, first = python_inspect.getsourcelines(getattr(entity, "__code__", entity))
    file = python_inspect.getsourcefile(getattr(entity, "__code__", entity))
    origin_info.resolve(node, source, file, first, python_inspect.indentsize(lines_[0]))


def _is_silenced(logger: logging.Logger, level: int) -> bool:
    """Whether the user has set what the logger writes: no mode writes what it then leaves out.

    Otherwise Python leaves out what is below a warning; the user who logs it expects to see it once a level is set.
    """
    at: logging.Logger | None = logger
    while at is not None and at.parent is not None:
        if at.level != logging.NOTSET:
            return True
        at = at.parent
    return logger.disabled or logging.root.level != logging.WARNING or logger.manager.disable >= level


def _is_within_logging(stack: Sequence[Any]) -> bool:
    """Whether a logger or `warnings` runs for the innermost of the user's lines."""
    for frame in lines.inside_trace(stack):
        if is_users(frame.filename):
            return False
        if (frame.filename, frame.name) in _LOGGING or frame.filename == warnings.__file__:
            return True
    return False


def _may_be_users(filename: str) -> bool:
    return is_users(filename) or lines.acts_for_its_caller(filename)


class _Stream:
    """A stream that records who writes to it; everything else is the original's."""

    def __init__(self, stream: Any, recorder: CallRecorder, name: str, silent: bool):
        self._stream, self._recorder, self._name, self._silent = stream, recorder, name, silent

    @_not_converted
    def write(self, text: str) -> int:
        if _may_be_users(sys._getframe(1).f_code.co_filename):
            self._recorder.record("MT101", f"sys.{self._name}.write")
        return len(text) if self._silent else self._stream.write(text)

    def writelines(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _recording_date(original: Any, record: Callable[[str, str], object]) -> Any:
    """A type that replaces `datetime.datetime` or `datetime.date`."""

    class Recording(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, original)

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs)

        def __getattr__(cls, name: str) -> Any:
            return getattr(original, name)

    def recording(name: str) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            record("MT302", f"{original.__name__}.{name}")
            return getattr(original, name)(*args, **kwargs)

        return staticmethod(_not_converted(method))

    methods = {name: recording(name) for name in ("now", "utcnow", "today") if hasattr(original, name)}
    return Recording(original.__name__, (), {"__module__": "datetime", **methods})
