"""A log of everything that one step computes: each operation with its output and the user's line that made it.

Eagerly the operations are written down as they run. A compiled step is traced with every intermediate tensor among its
outputs. Both logs are in the order of the program, so that they can be laid side by side (`bisect.py`).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager.wrap_function import VariableHolder, WrappedFunction
from tensorflow.python.framework import op_callbacks

from modetrain.diagnostics import location
from modetrain.diagnostics.location import Location
from modetrain.engine import random
from modetrain.engine.autograph import autograph_on
from modetrain.engine.context import StepContext
from modetrain.tools.compare.gradient_ops import Differentiated
from modetrain.tools.compare.observation import State
from modetrain.tools.compare.op_log import Entry, Log, most_terms
from modetrain.tools.compare.variant import Arm, one

# Larger tensors are looked at in so many places, evenly spread. What a flipped ReLU changes stands in few.
_MOST_ELEMENTS = 2**22
_SILENT = (
    *("Placeholder", "Const", "NoOp", "Identity", "_EagerConst", "VarHandleOp", "Assert", "Print", "StringFormat"),
    # The key of a generator is arranged in one way for XLA and in another for kernels; what is drawn with it is compared.
    *("StatelessRandomGetKeyCounter", "StatelessRandomGetKeyCounterAlg", "StatelessRandomGetAlg"),
)
_NARROW = (tf.bfloat16, tf.float16, tf.float32)
# Operations that round nothing, but for casts, which round what is rounded anyway.
_EXACT = (
    *(
        "Cast",
        "Reshape",
        "ExpandDims",
        "Squeeze",
        "Transpose",
        "Pack",
        "ConcatV2",
        "StridedSlice",
        "GatherV2",
        "Fill",
        "Tile",
    ),
    *(
        "ReadVariableOp",
        "AssignVariableOp",
        "ZerosLike",
        "OnesLike",
        "BroadcastTo",
        "Relu",
        "ReluGrad",
        "SelectV2",
        "Neg",
    ),
)
_GRADIENT_FILE = "backprop.py"


def log_of(arm: Arm, compile: str, number: int, state: State) -> Log:
    """Runs one step from a state, on one device, and writes down what it computes.

    Args:
      arm: whose recipe, data and step numbers are used.
      compile: `eager`, `graph` or `xla`.
      number: which step.
      state: to begin from; the arm's state is another one afterwards.
    """
    arm.load(state)
    run, parts, step = _step_of(arm, number)
    if compile == "eager":
        return _eagerly(lambda: run(parts, step))
    with _as_compiled(compile):
        return _compiled(run, parts, step, xla=compile == "xla")


def narrow(arm: Arm, number: int, state: State) -> Location | None:
    """The user's first line that computes in less than float64; None where none does.

    Args:
      arm: whose models compute in float64.
      number: which step.
      state: to begin from; the arm's state is another one afterwards.
    """
    try:
        step = Graph(arm, "graph", number, state)
    except Exception:  # of a step that runs in float64 in eager mode alone; a compiled arm says so itself
        return None
    for entry, dtype in zip(step.entries, step.dtypes, strict=True):
        if dtype in _NARROW and entry.op not in _EXACT and entry.place is not None:
            return entry.place
    return None


def _as_compiled(compile: str) -> contextlib.AbstractContextManager:
    """Within this a step is traced as it is for training."""
    return random.portable() if compile == "xla" else contextlib.nullcontext()


def _step_of(arm: Arm, number: int):
    """A function that runs one step, and what it takes: its micro-batches and its number."""
    block = arm.block_of(one(arm.batches, number), number)
    parts = [{name: value[0, part, 0] for name, value in block.arrays.items()} for part in range(block.parts)]

    def run(batches: Sequence[Mapping[str, tf.Tensor]], number: tf.Tensor) -> None:
        for part, batch in enumerate(batches):
            call = StepContext(
                number=number, watch=tf.constant(True), part=tf.constant(part), last_part=part == len(batches) - 1
            )
            arm.recipe.run_train_step(dict(batch), call)

    return run, parts, block.numbers[0, 0]


def _eagerly(run: Callable[[], None]) -> Log:
    made: list[tuple[str, Any, Location | None, bool, tuple, Location | None]] = []
    of = Differentiated()

    def note(op_type, inputs, attrs, outputs, op_name=None, graph=None):
        op_type = op_type.decode() if isinstance(op_type, bytes) else op_type
        if graph is None and op_type not in _SILENT:
            where, gradient = _where()
            found = (one for one in reversed(made) if of.is_forward(one[0], one[4], one[1])) if of.now else iter(())
            forward = next((one[2] for one in found if not one[3]), None)
            made.extend((op_type, output, where, gradient, tuple(inputs or ()), forward) for output in outputs)

    op_callbacks.add_op_callback(note)
    try:
        with of.listening():
            run()
    finally:
        op_callbacks.remove_op_callback(note)
    # The tensors are alive until here, so that their ids are theirs alone.
    positions = {_key(output): index for index, (_, output, *_) in enumerate(made)}
    return _log(
        [(op, _sample(output), output, where, grad, inputs, of) for op, output, where, grad, inputs, of in made],
        positions,
    )


class Graph:
    """One compiled step, whose intermediate results can be asked for one at a time.

    Asked for all at once, each is an output, and the graph optimizer, or XLA, has nothing left that it may merge.

    Args:
      arm: whose recipe, data and step numbers are used.
      compile: `graph` or `xla`.
      number: which step.
      state: to begin from; the arm's state is another one afterwards.

    Attributes:
      entries: the log, without values.
    """

    def __init__(self, arm: Arm, compile: str, number: int, state: State):
        self._arm, self._state = arm, state
        self._xla = compile == "xla"
        run, parts, step = _step_of(arm, number)
        self._found: list[tf.Tensor] = []

        of = Differentiated()

        @tf.function(autograph=True)
        def traced(batches, number):
            with autograph_on(tf.__internal__.autograph.control_status_ctx()), of.listening():
                tf.autograph.experimental.do_not_convert(run)(batches, number)
            self._found[:] = _tensors(tf.compat.v1.get_default_graph())

        with _as_compiled(compile):
            self._function = traced.get_concrete_function(parts, step)
        self._given = [*tf.nest.flatten(parts), step]
        self.entries = _log(_entries(self._found, iter(()), of.lines), _names(self._found))

    @property
    def dtypes(self) -> list[tf.DType]:
        """Of each entry."""
        return [tensor.dtype for tensor in self._found]

    def values_of(self, positions: Sequence[int]) -> list[np.ndarray | None]:
        """The values of some entries, as if nothing else were wanted; None where one is no number, or cannot be had."""
        numbers = [position for position in positions if _is_number(self._found[position])]
        found: dict[int, np.ndarray] = {}
        if numbers:
            self._arm.load(self._state)
            inputs = self._function.inputs[: len(self._given)]
            wanted = [self._found[position] for position in numbers]
            alone = WrappedFunction(self._function.graph, VariableHolder()).prune(list(inputs), wanted)
            if self._xla:
                alone = tf.function(lambda *given, alone=alone: alone(*given), jit_compile=True, autograph=False)
            with contextlib.suppress(tf.errors.OpError):
                for position, value in zip(numbers, alone(*self._given), strict=True):
                    flat = np.asarray(value.numpy()).reshape(-1)
                    found[position] = flat[:: _stride(flat.size)]
        return [found.get(position) for position in positions]


def _tensors(graph: tf.Graph) -> list[tf.Tensor]:
    return [
        output
        for op in graph.get_operations()
        if op.type not in _SILENT
        for output in op.outputs
        if output.dtype.is_floating or not _draws(op)
    ]


def _draws(op: tf.Operation) -> bool:
    """Whether it makes the bits of random numbers, which are arranged otherwise in eager's kernels."""
    return any(frame.filename == random.__file__ for frame in op.traceback)


def _compiled(run, parts, step: tf.Tensor, *, xla: bool) -> Log:
    found: list[tf.Tensor] = []
    of = Differentiated()

    @tf.function(autograph=True, jit_compile=xla)
    def logged(batches, number):
        with autograph_on(tf.__internal__.autograph.control_status_ctx()), of.listening():
            tf.autograph.experimental.do_not_convert(run)(batches, number)
        found[:] = _tensors(tf.compat.v1.get_default_graph())
        return [_sample_of(tensor) for tensor in found if _is_number(tensor)]

    values = iter(logged.get_concrete_function(parts, step)(parts, step))
    return _log(_entries(found, values, of.lines), _names(found))


def _entries(found: Sequence[tf.Tensor], values: Iterator[tf.Tensor], forward: Mapping[str, Location]) -> list[tuple]:
    made = []
    for tensor in found:
        frames = [(f.filename, f.lineno, f.name) for f in tensor.op.traceback]
        gradient = any(file.endswith(_GRADIENT_FILE) and name == "gradient" for file, _, name in frames)
        value = next(values, None) if _is_number(tensor) else None
        inputs = tuple(_through(one) for one in tensor.op.inputs)
        made.append(
            (
                tensor.op.type,
                None if value is None else value.numpy(),
                tensor,
                location.innermost(frames),
                gradient,
                inputs,
                forward.get(tensor.op.name),
            )
        )
    return made


def _names(found: Sequence[tf.Tensor]) -> dict[int | str, int]:
    return {_key(tensor): index for index, tensor in enumerate(found)}


def _key(tensor: tf.Tensor) -> int | str:
    # Symbolic tensors are made anew whenever they are asked for.
    return tensor.name if tf.is_symbolic_tensor(tensor) else id(tensor)


def _is_constant(tensor: tf.Tensor) -> bool:
    if tf.is_symbolic_tensor(tensor):
        return tensor.op.type == "Const"
    return tensor.dtype != tf.resource and _size(tensor) == 1  # eagerly a constant is a tensor as any other


def _through(tensor):
    """What an identity passes on."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _log(made: Sequence[tuple], positions: Mapping[int | str, int]) -> Log:
    log: Log = []
    for op, value, tensor, where, gradient, inputs, differentiated in made:
        found = [positions.get(_key(one), len(log)) for one in inputs]
        before = tuple(index for index in found if index < len(log))
        if gradient:
            forward = [log[index].place for index in before if not log[index].gradient and log[index].place]
            inherited = [log[index].place for index in before if log[index].gradient and log[index].place]
            where = differentiated or (forward[-1] if forward else inherited[-1] if inherited else where)
        constant = [
            log[index].constant if index < len(log) else _is_constant(one)
            for index, one in zip(found, inputs, strict=True)
        ]
        log.append(
            Entry(
                op=op,
                value=value,
                shape=tuple(tensor.shape.as_list() if tensor.shape.rank is not None else ()),
                place=where,
                gradient=gradient,
                inputs=before,
                constant=all(constant),
                of_constant=any(constant),
                most_terms=most_terms(op, [_size(one) for one in inputs], _size(tensor)),
            )
        )
    return log


def _where() -> tuple[Location | None, bool]:
    """The user's line that is running, and whether a gradient is being taken."""
    frame: FrameType | None = sys._getframe(2)
    gradient = False
    while frame is not None and frame.f_code.co_name != "run_train_step":
        gradient |= frame.f_code.co_name == "gradient" and frame.f_code.co_filename.endswith(_GRADIENT_FILE)
        frame = frame.f_back
    return location.of_caller(), gradient


def _is_number(tensor: tf.Tensor) -> bool:
    return tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool


def _stride(size: int) -> int:
    return max(1, -(-size // _MOST_ELEMENTS))


def _sample(tensor) -> np.ndarray | None:
    if not _is_number(tensor):
        return None
    flat = tensor.numpy().reshape(-1)
    return flat[:: _stride(flat.size)]


def _sample_of(tensor: tf.Tensor) -> tf.Tensor:
    size = tensor.shape.num_elements()
    flat = tf.reshape(tensor, [-1])
    return flat if size is None or size <= _MOST_ELEMENTS else flat[:: _stride(size)]


def _size(tensor) -> int:
    return (tensor.shape.num_elements() or 1) if tensor.shape.rank is not None and tensor.dtype != tf.resource else 1
