"""Why a step could not be traced, and at which of the user's lines."""

from __future__ import annotations

import re
import traceback

from modetrain.diagnostics import tf_errors
from modetrain.diagnostics.location import Location, is_users
from modetrain.tools.inspect.finding import Finding, finding
from modetrain.tools.inspect.traced_step import Steps

_KINDS = (
    (
        r"only supports singleton tf\.Variables|creat\w+ variables on (a )?non-first call|tried to create variables"
        r"|variables? .*(created|creation).* inside a tf\.function",
        "MT206",
    ),
    (
        r"has no attribute 'numpy'|numpy\(\) is (not supported|only available)|Cannot convert a symbolic"
        r"|[Ss]ymbolic `?tf\.Tensor`? as a Python|Using a symbolic|[Ii]terating over a symbolic|SymbolicTensor"
        r"|NotImplementedError: numpy"
        r"|only (integer )?scalar arrays can be converted|Expected any non-tensor type|__array__|\.item|tolist"
        r"|[Ss]ymbolic.*(bool|iterat|hash|index)|must be real number, not|cannot be interpreted as an integer"
        r"|TypeError: (int|float|bool|complex|unsupported format)|'(Symbolic)?Tensor' object (is not|cannot)",
        "MT105",
    ),
    (
        r"out of scope|InaccessibleTensorError|defined in another function|FuncGraph.*another|should be from the same graph",
        "MT203",
    ),
)


def of_trace(error: BaseException, steps: Steps, *, again: bool = False) -> Finding:
    """The finding for an error that tracing raised.

    Args:
      error: what was raised.
      steps: what was traced.
      again: whether it was the second trace, the first having gone well.
    """
    said = f"{type(error).__name__}: {error}"
    code = next((code for pattern, code in _KINDS if re.search(pattern, said)), "MT107")
    message = tf_errors.read(error)
    text = message.text if message is not None else said
    when = "traced a second time: " if again else ""
    return finding(code, place_of(error) or steps.place, when + " ".join(text.split())[:300], evidence="tracing failed")


def asks_for_value(said: str) -> bool:
    """Whether a message says that a tensor of a trace was asked for its value."""
    return re.search(_KINDS[1][0], said) is not None


def place_of(error: BaseException) -> Location | None:
    """The innermost of the user's lines that an error tells of."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    message = tf_errors.read(error)
    for stack in message.stacks if message is not None else ():
        users = [frame for frame in stack if is_users(frame.filename)]
        if users:
            return Location(file=users[-1].filename, line=users[-1].lineno or 1)
    # The outermost frames are those of whoever called the library.
    inner = [frame for frame in frames if not _is_caller(frame, error)]
    return Location(file=inner[-1].filename, line=inner[-1].lineno or 1) if inner else None


def _is_caller(frame: traceback.FrameSummary, error: BaseException) -> bool:
    for one in traceback.extract_tb(error.__traceback__):
        if not is_users(one.filename):
            return False
        if one is frame or (one.filename, one.lineno) == (frame.filename, frame.lineno):
            return True
    return False
