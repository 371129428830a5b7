"""Records everything that one step computes: each operation with its output and the user's line that made it.

Eagerly operations are recorded as they run. A compiled step is traced with every intermediate tensor among its outputs. Both
traces are in the order of the program, so that they can be aligned (`first_difference.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager.wrap_function import VariableHolder, WrappedFunction
from tensorflow.python.framework import op_callbacks

from modetrain.diagnostics import location
from modetrain.diagnostics.location import Location
from modetrain.engine import random, replica_random, xla_random
from modetrain.engine.autograph import autograph_on
from modetrain.engine.context import StepContext
from modetrain.tools.compare.gradient_ops import GradientListener
from modetrain.tools.compare.op_trace import OpOutput, OpTrace, most_terms
from modetrain.tools.step_runner import State, StepRunner

# Of larger tensors this many evenly spread elements are compared. What a flipped ReLU changes is in few elements.
_MOST_ELEMENTS = 2**22
_SILENT = (
    *("Placeholder", "Const", "NoOp", "Identity", "_EagerConst", "VarHandleOp", "Assert", "Print", "StringFormat"),
    # The key of a generator is arranged in one way for XLA and in another for kernels; what is drawn with it is compared.
    *("StatelessRandomGetKeyCounter", "StatelessRandomGetKeyCounterAlg", "StatelessRandomGetAlg"),
)
_NARROW = (tf.bfloat16, tf.float16, tf.float32)
# Operations that round nothing, and casts, which round what is rounded anyway.
_EXACT = (
    *("Cast", "Reshape", "ExpandDims", "Squeeze", "Transpose", "Pack", "ConcatV2", "StridedSlice", "GatherV2", "Fill"),
    *("Tile", "ReadVariableOp", "AssignVariableOp", "ZerosLike", "OnesLike", "BroadcastTo", "Relu", "ReluGrad"),
    *("SelectV2", "Neg"),
)
_GRADIENT_FILE = "backprop.py"

_RANDOM = (random.__file__, replica_random.__file__, xla_random.__file__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Output:
    """An output as TensorFlow has it; `forward` is the line of the operation that it is the gradient of, where known."""

    op: str
    tensor: Any
    place: Location | None
    gradient: bool
    inputs: Sequence[Any]
    forward: Location | None


def record_ops(runner: StepRunner, compile: str, number: int, state: State) -> OpTrace:
    """Runs one step from a state, on one device, and records what it computes.

    Args:
      runner: of `train_step`; its state is another one afterwards.
      compile: `eager`, `graph` or `xla`.
      number: which step.
      state: to begin from.
    """
    runner.load(state)
    run, parts, step = _step_function(runner, number)
    if compile == "eager":
        return _record_eagerly(lambda: run(parts, step))
    outputs: list[_Output] = []

    def is_read(tensor: tf.Tensor) -> bool:
        return _is_number(tensor) and (compile != "xla" or _has_fixed_size(tensor))

    @tf.function(autograph=True, jit_compile=compile == "xla")
    def recorded(batches, number):
        outputs[:] = _trace(run, batches, number, tf.__internal__.autograph.control_status_ctx())
        return [_sample_symbol(output.tensor) for output in outputs if is_read(output.tensor)]

    with _as_compiled(compile):
        values = iter(recorded.get_concrete_function(parts, step)(parts, step))
    return _make_trace(outputs, [next(values).numpy() if is_read(output.tensor) else None for output in outputs])


def find_narrow_lines(runner: StepRunner, number: int, state: State) -> dict[str, Location]:
    """By dtype the user's first line that computes in it, of the dtypes that hold less than float64.

    Args:
      runner: whose models compute in float64; its state is another one afterwards.
      number: which step.
      state: to begin from.
    """
    try:
        step = CompiledStep(runner, "graph", number, state)
    except Exception:  # a step that runs in eager mode alone; a compiled variant reports that itself
        return {}
    found: dict[str, Location] = {}
    for entry, dtype in zip(step.entries, step.dtypes, strict=True):
        if dtype in _NARROW and entry.op not in _EXACT and entry.place is not None:
            found.setdefault(dtype.name, entry.place)
    return found


class CompiledStep:
    """One compiled step, whose intermediate results are computed one at a time.

    Computed together, each is an output, and the graph optimizer, or XLA, has nothing left to merge.

    Args:
      runner: of `train_step`; its state is another one afterwards.
      compile: `graph` or `xla`.
      number: which step.
      state: to begin from.

    Attributes:
      entries: the trace, without values.
      dtypes: of each entry.
    """

    def __init__(self, runner: StepRunner, compile: str, number: int, state: State):
        self._runner, self._state = runner, state
        self._xla = compile == "xla"
        run, parts, step = _step_function(runner, number)
        outputs: list[_Output] = []

        @tf.function(autograph=True)
        def traced(batches, number):
            outputs[:] = _trace(run, batches, number, tf.__internal__.autograph.control_status_ctx())

        with _as_compiled(compile):
            self._function = traced.get_concrete_function(parts, step)
        self._given = [*tf.nest.flatten(parts), step]
        self._tensors = [output.tensor for output in outputs]
        self.entries = _make_trace(outputs, [None] * len(outputs))
        self.dtypes: list[tf.DType] = [tensor.dtype for tensor in self._tensors]

    def values_of(self, positions: Sequence[int]) -> list[np.ndarray | None]:
        """The values of some entries, as if nothing else were wanted; None where one is no number, or cannot be computed."""
        numbers = [
            position
            for position in positions
            if _is_number(tensor := self._tensors[position]) and (not self._xla or _has_fixed_size(tensor))
        ]
        found: dict[int, np.ndarray] = {}
        if numbers:
            self._runner.load(self._state)
            inputs = self._function.inputs[: len(self._given)]
            wanted = [self._tensors[position] for position in numbers]
            alone = WrappedFunction(self._function.graph, VariableHolder()).prune(list(inputs), wanted)
            if self._xla:
                alone = tf.function(lambda *given, alone=alone: alone(*given), jit_compile=True, autograph=False)
            with contextlib.suppress(tf.errors.OpError):
                for position, value in zip(numbers, alone(*self._given), strict=True):
                    found[position] = _sample(value)
        return [found.get(position) for position in positions]


def _as_compiled(compile: str) -> contextlib.AbstractContextManager:
    """Within this a step is traced as it is for training."""
    return xla_random.portable() if compile == "xla" else contextlib.nullcontext()


def _step_function(runner: StepRunner, number: int):
    """A function that runs one step, and its arguments: micro-batches and number."""
    count = runner.block.parts
    parts = [{name: value[number, part, 0] for name, value in runner.block.arrays.items()} for part in range(count)]

    def run(batches: Sequence[Mapping[str, tf.Tensor]], number: tf.Tensor) -> None:
        for part, batch in enumerate(batches):
            running = StepContext(
                number=number, watch=tf.constant(True), part=tf.constant(part), last_part=part == len(batches) - 1
            )
            runner.recipe.run_train_step(dict(batch), running)

    return run, parts, runner.block.numbers[number, 0]


def _record_eagerly(run: Callable[[], None]) -> OpTrace:
    outputs: list[_Output] = []
    listener = GradientListener()

    def note(op_type, inputs, attrs, made, op_name=None, graph=None):
        op = op_type.decode() if isinstance(op_type, bytes) else op_type
        if graph is None and op not in _SILENT:
            place, gradient = _running_line()
            earlier = reversed(outputs) if listener.active else ()
            found = (one for one in earlier if listener.is_forward(one.op, one.inputs, one.tensor))
            forward = next((one.place for one in found if not one.gradient), None)
            for tensor in made:
                outputs.append(
                    _Output(
                        op=op,
                        tensor=tensor,
                        place=place,
                        gradient=gradient,
                        inputs=tuple(inputs or ()),
                        forward=forward,
                    )
                )

    op_callbacks.add_op_callback(note)
    try:
        with listener.listening():
            run()
    finally:
        op_callbacks.remove_op_callback(note)
    # The tensors are alive until here, so that their ids are theirs alone.
    return _make_trace(outputs, [_sample(one.tensor) if _is_number(one.tensor) else None for one in outputs])


@tf.autograph.experimental.do_not_convert
def _trace(run: Callable, batches, number, autograph: Any) -> list[_Output]:
    """Traces a step in the current graph, with AutoGraph for the user's functions; returns its outputs."""
    listener = GradientListener()
    with autograph_on(autograph), listener.listening():
        run(batches, number)
    outputs = []
    for op in tf.compat.v1.get_default_graph().get_operations():
        frames = [(frame.filename, frame.lineno, frame.name) for frame in op.traceback]
        # The bits of random numbers are arranged otherwise in eager's kernels.
        draws = any(file in _RANDOM for file, _, _ in frames)
        tensors = [tensor for tensor in op.outputs if tensor.dtype.is_floating or not draws]
        if op.type in _SILENT or not tensors:
            continue
        gradient = any(file.endswith(_GRADIENT_FILE) and name == "gradient" for file, _, name in frames)
        place, inputs = location.innermost(frames), [_skip_identities(tensor) for tensor in op.inputs]
        forward = listener.lines.get(op.name)
        outputs += [
            _Output(op=op.type, tensor=tensor, place=place, gradient=gradient, inputs=inputs, forward=forward)
            for tensor in tensors
        ]
    return outputs


def _make_trace(outputs: Sequence[_Output], values: Sequence[np.ndarray | None]) -> OpTrace:
    positions = {_key(output.tensor): index for index, output in enumerate(outputs)}
    trace: OpTrace = []
    for output, value in zip(outputs, values, strict=True):
        found = [positions.get(_key(tensor), len(trace)) for tensor in output.inputs]
        before = tuple(index for index in found if index < len(trace))
        place = output.place
        if output.gradient:
            forward = [trace[index].place for index in before if not trace[index].gradient and trace[index].place]
            inherited = [trace[index].place for index in before if trace[index].gradient and trace[index].place]
            place = output.forward or (forward[-1] if forward else inherited[-1] if inherited else place)
        constant = [
            trace[index].constant if index < len(trace) else _is_constant(tensor)
            for index, tensor in zip(found, output.inputs, strict=True)
        ]
        shape = output.tensor.shape
        trace.append(
            OpOutput(
                op=output.op,
                value=value,
                shape=tuple(shape.as_list() if shape.rank is not None else ()),
                place=place,
                gradient=output.gradient,
                inputs=before,
                constant=all(constant),
                of_constant=any(constant),
                most_terms=most_terms(output.op, [_size(tensor) for tensor in output.inputs], _size(output.tensor)),
            )
        )
    return trace


def _running_line() -> tuple[Location | None, bool]:
    """The user's line that is running, and whether a gradient is being taken."""
    frame: FrameType | None = sys._getframe(2)
    gradient = False
    while frame is not None and frame.f_code.co_name != "run_train_step":
        gradient |= frame.f_code.co_name == "gradient" and frame.f_code.co_filename.endswith(_GRADIENT_FILE)
        frame = frame.f_back
    return location.of_caller(), gradient


def _key(tensor: tf.Tensor) -> int | str:
    # A symbolic tensor is another object each time that it is asked for.
    return tensor.name if tf.is_symbolic_tensor(tensor) else id(tensor)


def _is_constant(tensor: tf.Tensor) -> bool:
    if tf.is_symbolic_tensor(tensor):
        return tensor.op.type == "Const"
    return tensor.dtype != tf.resource and _size(tensor) == 1  # eagerly a constant is a tensor like any other


def _skip_identities(tensor):
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _is_number(tensor: tf.Tensor) -> bool:
    return tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool


def _has_fixed_size(tensor: tf.Tensor) -> bool:
    """Whether XLA can return a tensor: as a result of a program, one whose size depends on data may end the process."""
    return tensor.shape.is_fully_defined()


def _size(tensor) -> int:
    return (tensor.shape.num_elements() or 1) if tensor.shape.rank is not None and tensor.dtype != tf.resource else 1


def _stride(size: int) -> int:
    return max(1, -(-size // _MOST_ELEMENTS))


def _sample(tensor) -> np.ndarray:
    flat = np.asarray(tensor.numpy()).reshape(-1)
    return flat[:: _stride(flat.size)]


def _sample_symbol(tensor: tf.Tensor) -> tf.Tensor:
    size = tensor.shape.num_elements()
    flat = tf.reshape(tensor, [-1])
    return flat if size is None else flat[:: _stride(size)]
