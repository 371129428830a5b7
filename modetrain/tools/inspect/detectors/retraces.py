"""What causes further traces: batches of other shapes, and other arguments of the user's own `tf.function`s in a step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from modetrain.diagnostics import stack
from modetrain.diagnostics.location import is_users
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.inspected_step import Batch, InspectedStep

_Signature = Mapping[str, str]


def find(step: InspectedStep) -> Iterator[Finding]:
    """Finds batches of another structure, shape or dtype than the first."""
    first = _signature_of_batch(step.batches[0])
    for number, batch in enumerate(step.batches[1:], 1):
        for difference in _differences(first, _signature_of_batch(batch)):
            what = f"batch {number} against batch 0: {difference}"
            yield make_finding("MT502", step.place, what, evidence="shapes of the batches")


@contextlib.contextmanager
def record_retraces() -> Iterator[list[Finding]]:
    """Within a `with` block finds which of the user's own `tf.function`s are traced more than once."""
    findings: list[Finding] = []
    signatures: dict[int, _Signature] = {}
    cls = polymorphic_function.Function
    original = cls.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        code = getattr(function.python_function, "__code__", None)
        if code is None or not is_users(code.co_filename):
            return original(function, *args, **kwargs)
        before = function.experimental_get_tracing_count()
        result = original(function, *args, **kwargs)
        signature = _signature_of_call(code, args, kwargs)
        place = stack.here()
        first = signatures.setdefault(id(function), signature)
        difference = "; ".join(_differences(first, signature)) if first is not signature else ""
        if place is not None and difference:
            name, evidence = function.python_function.__name__, "calls of tf.functions"
            if function.experimental_get_tracing_count() > before:
                findings.append(make_finding("MT502", place, f"{name}: {difference}", evidence=evidence))
            elif function._jit_compile:
                what = f"{name} is compiled by XLA for each shape: {difference}"
                findings.append(make_finding("MT503", place, what, evidence=evidence))
        return result

    cls.__call__ = call
    try:
        yield findings
    finally:
        cls.__call__ = original


def _differences(old: _Signature, new: _Signature) -> list[str]:
    """What differs between two signatures, argument by argument: `batch['x']: float32 (8, 4) -> float32 (6, 4)`."""
    names = [*old, *(name for name in new if name not in old)]
    pairs = ((name, old.get(name, "not there"), new.get(name, "not there")) for name in names)
    return [f"{name}: {before} -> {after}" for name, before, after in pairs if before != after]


def _signature_of_batch(batch: Batch) -> _Signature:
    return {f"batch[{name!r}]": _describe_argument(tf.convert_to_tensor(value)) for name, value in batch.items()}


def _signature_of_call(code: Any, args: tuple, kwargs: dict) -> _Signature:
    given = {**dict(zip(code.co_varnames[: code.co_argcount], args, strict=False)), **kwargs}
    return {
        f"{name}{path}": _describe_argument(leaf)
        for name, value in given.items()
        if name != "self"
        for path, leaf in _leaves(value)
    }


def _describe_argument(value: Any) -> str:
    """What `tf.function` distinguishes arguments by: dtype and shape of a tensor, the value of anything else."""
    if tf.is_tensor(value) or isinstance(value, tf.TensorSpec):
        return f"{value.dtype.name} {tuple(value.shape) if value.shape.rank is not None else 'of any rank'}"
    return f"the Python {type(value).__name__} {value!r}"[:80]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Mapping, list, tuple)):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(item, f"{path}[{key!r}]")
    else:
        yield path, value
