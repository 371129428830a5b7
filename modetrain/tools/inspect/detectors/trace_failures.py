"""The finding for a step that could not be traced."""

from __future__ import annotations

from collections.abc import Iterator

from modetrain.diagnostics import error_origin, stack, tf_errors
from modetrain.tools.inspect.detectors.operations import is_python
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.inspected_step import InspectedStep

_MOST_LETTERS = 300
_EVIDENCE = "tracing failed"


def explain_failure(error: BaseException, step: InspectedStep, *, again: bool = False) -> Iterator[Finding]:
    """The findings for an error that tracing raised.

    Args:
      error: what was raised.
      step: what was traced.
      again: whether it was the second trace, and the first one went well.
    """
    code = tf_errors.code_of_trace_error(error) or "MT107"
    place = error_origin.find_origin(error) or tf_errors.find_place(error)
    what = ("traced a second time: " if again else "") + describe_error(error)
    yield make_finding(code, place or step.place, what, evidence=_EVIDENCE)
    unknown = error_origin.find_unknown_shape(error)
    if unknown is not None and is_python(unknown) and place is not None and place == stack.of_op(unknown):
        what = f"operation {unknown.type}, whose result has no known shape"
        yield make_finding("MT106", place, what, evidence=_EVIDENCE)


def describe_error(error: BaseException) -> str:
    """Type and reason of an error on one line, cut where it is long."""
    message = tf_errors.read(error)
    text = message.text if message is not None else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:_MOST_LETTERS]
