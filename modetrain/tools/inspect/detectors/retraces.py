"""Traces again, by the argument that caused them: batches of other shapes, and the user's own `tf.function`s in a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import is_users
from modetrain.tools.inspect.finding import Finding, finding
from modetrain.tools.inspect.traced_step import Batch, Steps

_Signature = Mapping[str, str]


def of_batches(steps: Steps) -> Iterator[Finding]:
    """Whether the batches have one structure, shape and dtype."""
    first = _of_batch(steps.batches[0])
    for number, batch in enumerate(steps.batches[1:], 1):
        for difference in differences(first, _of_batch(batch)):
            what = f"batch {number} against batch 0: {difference}"
            yield finding("MT502", steps.place, what, evidence="shapes of the batches")


def differences(old: _Signature, new: _Signature) -> list[str]:
    """What differs between two signatures, argument by argument: `batch['x']: float32 (8, 4) -> float32 (6, 4)`."""
    names = [*old, *(name for name in new if name not in old)]
    pairs = ((name, old.get(name, "not there"), new.get(name, "not there")) for name in names)
    return [f"{name}: {before} -> {after}" for name, before, after in pairs if before != after]


def _of_batch(batch: Batch) -> _Signature:
    return {f"batch[{name!r}]": described(tf.convert_to_tensor(value)) for name, value in batch.items()}


def described(value: Any) -> str:
    """An argument as `tf.function` tells it from others: dtype and shape of a tensor, the value of anything else."""
    if tf.is_tensor(value) or isinstance(value, tf.TensorSpec):
        return f"{value.dtype.name} {tuple(value.shape) if value.shape.rank is not None else 'of any rank'}"
    return f"the Python {type(value).__name__} {value!r}"[:80]


class Retraces:
    """Within a `with` block hears which of the user's own `tf.function`s are traced more than once.

    Attributes:
      findings: what was heard.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._seen: dict[int, _Signature] = {}
        self._shapes: dict[int, _Signature] = {}
        self._original: Any = None

    def __enter__(self) -> Retraces:
        cls = polymorphic_function.Function
        self._original = original = cls.__call__
        called = self._called

        def call(function: Any, *args: Any, **kwargs: Any) -> Any:
            return called(original, function, args, kwargs)

        cls.__call__ = call
        return self

    def __exit__(self, *error: object) -> None:
        polymorphic_function.Function.__call__ = self._original

    def _called(self, original: Any, function: Any, args: tuple, kwargs: dict) -> Any:
        code = getattr(function.python_function, "__code__", None)
        if code is None or not is_users(code.co_filename):
            return original(function, *args, **kwargs)
        before = function.experimental_get_tracing_count()
        result = original(function, *args, **kwargs)
        signature = _of_arguments(code, args, kwargs)
        place = stack.here()
        known = self._seen.setdefault(id(function), signature)
        if place is not None and known is not signature:
            told = "; ".join(differences(known, signature))
            if function.experimental_get_tracing_count() > before and told:
                what = f"{function.python_function.__name__}: {told}"
                self.findings.append(finding("MT502", place, what, evidence="calls of tf.functions"))
            elif function._jit_compile and told:
                what = f"{function.python_function.__name__} is compiled by XLA for each shape: {told}"
                self.findings.append(finding("MT503", place, what, evidence="calls of tf.functions"))
        return result


def _of_arguments(code: Any, args: tuple, kwargs: dict) -> _Signature:
    names = code.co_varnames[: code.co_argcount]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {
        f"{name}{path}": described(leaf)
        for name, value in given.items()
        if name != "self"
        for path, leaf in _leaves(value)
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        yield path, value
