"""The finding for a step that could not be traced."""

from __future__ import annotations

from modetrain.diagnostics import tf_errors
from modetrain.tools.inspect.finding import Finding, make_finding
from modetrain.tools.inspect.inspected_step import InspectedStep

_MOST_LETTERS = 300


def explain_failure(error: BaseException, step: InspectedStep, *, again: bool = False) -> Finding:
    """The finding for an error that tracing raised.

    Args:
      error: what was raised.
      step: what was traced.
      again: whether it was the second trace, and the first one went well.
    """
    code = tf_errors.code_of_trace_error(error) or "MT107"
    place = tf_errors.find_place(error) or step.place
    when = "traced a second time: " if again else ""
    return make_finding(code, place, when + describe_error(error), evidence="tracing failed")


def describe_error(error: BaseException) -> str:
    """Type and reason of an error on one line, cut where it is long."""
    message = tf_errors.read(error)
    text = message.text if message is not None else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:_MOST_LETTERS]
