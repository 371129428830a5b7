"""Variables that the user's lines read or write outside of the graph while it is traced, in a `tf.init_scope` for example."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tensorflow.python.util import tf_stack

from modetrain.diagnostics import stack
from modetrain.tools.inspect.detectors.recorded_calls import CallLog, observe_eager_operations

_ACCESS = re.compile(r"ReadVariableOp|Assign\w*VariableOp|Resource(Scatter|Gather)\w*")
_WRITE = re.compile("Assign|Scatter")


@contextlib.contextmanager
def record_eager_variables() -> Iterator[CallLog]:
    """Records them within a `with` block, in which a step is traced."""
    log = CallLog()

    def record(op_type: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        if _ACCESS.fullmatch(op_type):
            frames = list(tf_stack.extract_stack())
            if not stack.by_layer(frames):
                verb = "written" if _WRITE.search(op_type) else "read"
                log.add("MT207", stack.of_stack(frames), f"a variable is {verb}")

    with observe_eager_operations(record):
        yield log
