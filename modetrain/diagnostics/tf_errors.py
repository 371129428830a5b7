"""Reads TensorFlow's error messages: what went wrong, and at which lines of Python.

    message = tf_errors.read(error)
    message.text       "InvalidArgumentError: indices = 1000 is not in [0, 10)"
    message.stacks     [[<FrameSummary file recipes/mine.py, line 15 in pick>]]

An operation of a graph fails long after the Python that made it has run: its lines are in the message and in no
traceback. Around the one line that matters stand the stack of the whole program, names of nodes and whole tensors.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import textwrap
import traceback
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from modetrain.diagnostics.location import Location, innermost, is_users

_PACKAGE = Path(__file__).parents[1]
_MOST_LINES = 6
_MOST_LETTERS = 400

_AUTOGRAPH = "in user code:"  # AutoGraph begins its messages with this, for errors of every type
_FRAME = re.compile(r'(?P<indent>\s*)File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)')
# Lines without information for the user.
_NOISE = re.compile(
    r"\s*(Graph execution error:|Detected at node .*|Stack trace for op definition:|The op is created at:|\[\[.*\]\].*"
    r"|tf2xla conversion failed .*|Hint: If you want to see a list of allocated tensors .*|\d+ root error\(s\) found\."
    r"|\d+ (successful operations|derived errors ignored)\..*)\s*"
)
# Parts of lines without information: names of nodes and of operations' wrappers, numbers of root errors, colours.
_MARKS = re.compile(
    r"( compatible with node )?\{\{(function_)?node [^{}]*\}\}|\s*\[Op:\w*\]( name:.*)?|^\s*\(\d+\) [A-Z_]+: "
    r"|\x1b\[\d*m",
    re.M,
)
# How shape functions name an operation: "for '{{node matmul}} = MatMul[T=DT_FLOAT, ...](a, b)' with input shapes".
_OPERATION = re.compile(r"'\{\{node [^{}]*\}\} = (\w+)[^\n]*?\)'(?= with )")
# The message of tf.debugging.enable_check_numerics, with its own stack and, in eager mode, every number of the input.
_NUMERICS = re.compile(
    r'!!! Detected Infinity or NaN in output (?P<output>\d+) of [\w-]+ op "(?P<op>[^"]+)"[\s\S]*?'
    r"dtype: <dtype: '(?P<dtype>\w+)'>\s*shape: (?P<shape>\([^)]*\))[\s\S]*: Tensor had (?P<made>[^\n]*?) values"
)

# Stands between the error of a Python function that a graph has called (tf.py_function) and its stack.
_CALLED_BACK = "Traceback (most recent call last):"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _KnownError:
    """An error that users of TensorFlow often get.

    Attributes:
      pattern: of "type: message", wherever the error is raised.
      advice: one plain sentence; empty where there is none.
      code: of `inspect`; None where it has none.
      while_tracing: a pattern that has this meaning only for an error of a trace.
    """

    pattern: str
    advice: str = ""
    code: str | None = None
    while_tracing: str | None = None

    def matches(self, text: str, *, tracing: bool = False) -> bool:
        more = tracing and self.while_tracing is not None and re.search(self.while_tracing, text)
        return bool(more or re.search(self.pattern, text))


_KNOWN = (
    _KnownError(
        pattern=r"tf\.function only supports singleton tf\.Variables|creat\w+ variables on (a )?non-first call"
        r"|tf\.function-decorated function tried to create variables",
        advice="A step made a variable (or a layer, optimizer or metric, which make variables): a traced step would make it "
        "again at each trace. Make it in the recipe's __init__ and use it in the step.",
        code="MT206",
        while_tracing=r"only supports singleton tf\.Variables|tried to create variables"
        r"|variables? .*(created|creation).* inside a tf\.function",
    ),
    _KnownError(
        pattern=r"has no attribute 'numpy'|\.numpy\(\) is not supported|numpy\(\) is only available when eager"
        r"|Cannot convert a symbolic .*[Tt]ensor.* to a numpy array|NotImplementedError: numpy"
        # math.exp(), int(), an index, a format, .item()
        r"|(Type|Attribute)Error: [^\n]*SymbolicTensor|Expected any non-tensor type, but got a tensor",
        advice="A step asked for the value of a tensor (.numpy(), float(), np.asarray): a traced step has no values yet. Use "
        "TensorFlow operations instead, or return the tensor from the step and look at it in a callback.",
        code="MT105",
        while_tracing=r"numpy\(\) is (not supported|only available)|Cannot convert a symbolic|SymbolicTensor"
        r"|only (integer )?scalar arrays can be converted|Expected any non-tensor type|__array__|\.item|tolist"
        r"|[Ss]ymbolic.*(bool|iterat|hash|index)|must be real number, not|cannot be interpreted as an integer"
        r"|TypeError: (int|float|bool|complex|unsupported format)|'(Symbolic)?Tensor' object (is not|cannot)",
    ),
    _KnownError(
        pattern=r"(IteratorGetNext|IteratorGetNextAsOptional).*(unsupported|not supported|XLA|compil)"
        r"|(unsupported|compil|XLA)[\s\S]*IteratorGetNext",
        advice="A step read from an iterator: no iterator can be inside a compiled program. A step takes a batch; take what "
        "it needs from the batch, or add it in the recipe's prepare.",
    ),
    _KnownError(
        pattern=r"Using a symbolic `?tf\.Tensor`? as a Python `?bool`?|OperatorNotAllowedInGraphError"
        r"|len is not well defined for a symbolic",
        advice="A step used a tensor where Python needs a plain value (if, for, and, len, int): move that line into a "
        "function of the recipe's own file, where it is converted, or use tf.cond, tf.where or tf.range.",
        code="MT105",
        while_tracing=r"[Ss]ymbolic `?tf\.Tensor`? as a Python|Using a symbolic|[Ii]terating over a symbolic",
    ),
    _KnownError(
        pattern=r"Detected unsupported operations when trying to compile graph|No registered '[^']+' OpKernel for XLA",
        advice="A step uses an operation that XLA cannot compile (named above): replace it, or type mode=graph.",
    ),
    _KnownError(
        pattern=r"Method requires being in cross-replica context|merge_call called while defining a new graph",
        advice="Over several replicas a step calls the model itself, not model.fit, train_on_batch, test_on_batch or predict; and "
        "what exchanges values between replicas (all_reduce, all_gather, a Keras optimizer) stands in no tf.cond, loop or "
        "tf.function of the step's. Write self.minimize(...) with the model's loss, or type mode=graph.",
    ),
    _KnownError(
        pattern=r"ResourceExhaustedError|MemoryError|OOM when allocating|[Oo]ut of memory|bad_alloc"
        r"|failed to allocate memory",
        advice="The step needs more memory than there is. Type optimizer.accumulate=2 (the same update from half the memory at "
        "a time), a smaller data.batch_size=, or mode.steps_per_call=1.",
    ),
    _KnownError(
        pattern=r"'AddN' Op have types|cannot compute AddN as input",
        advice="tf.add_n was given tensors of two dtypes, as penalties in model.losses are with mixed precision: leave them out "
        "of the loss, since minimize adds each of them once.",
    ),
    _KnownError(
        pattern=r"should not modify its Python input arguments",
        advice="A step changed the batch that it is given (batch.pop, del, batch[...] =): change a copy instead, dict(batch).",
    ),
    _KnownError(
        pattern=r"out of scope|is from a different graph|cannot be accessed here, because it was defined in",
        advice="A tensor of one trace was kept and used in another (an attribute, a list or a global that a step wrote): "
        "return it from the step instead.",
        code="MT203",
        while_tracing=r"InaccessibleTensorError|defined in another function|FuncGraph.*another"
        r"|should be from the same graph",
    ),
)
# The errors of checks that eager and graph mode make and XLA drops.
_DROPPED_BY_XLA = (
    _KnownError(pattern=r"label value of|labels? (value )?.*(outside|out of range|must be)", code="MT602"),
    _KnownError(
        pattern=r"[Ii]nteger division by zero|integer modulo by zero|division by zero|negative integer powers",
        code="MT603",
    ),
    _KnownError(
        pattern=r"[Aa]ssertion failed|\bassert_|did not hold|to be true\. Summarized data",
        code="MT604",
    ),
    _KnownError(pattern=r"Tensor had (NaN|Inf|-Inf|inf)|check_numerics|CheckNumerics", code="MT605"),
    _KnownError(pattern=r"not invertible|Cholesky decomposition was not successful|singular", code="MT607"),
    _KnownError(
        pattern=r"Tried to (read|write)|is not in \[|does not index into|out of bound|out of range|segment_ids?.*range"
        r"|indices\[",
        code="MT601",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """The content of an error message.

    Attributes:
      text: type and reason of the error, a few lines.
      stacks: lines of Python, outermost first; a stack for each operation that the message is about.
    """

    text: str
    stacks: list[list[traceback.FrameSummary]]


def read(error: BaseException) -> Message | None:
    """The content of an error's message; None for an error that is not TensorFlow's."""
    text = str(error)
    traced = text.startswith(_AUTOGRAPH)
    if not traced and not isinstance(error, tf.errors.OpError):
        return None
    stacks, rest = _without_stacks(text.removeprefix(_AUTOGRAPH))
    if numerics := _NUMERICS.search(text):
        reason = "operation {op} made {made}: output {output}, {dtype} of shape {shape}".format(**numerics.groupdict())
    else:
        lines = [
            line.rstrip()
            for line in _MARKS.sub("", _OPERATION.sub(r"\1", rest)).splitlines()
            if not _NOISE.fullmatch(line)
        ]
        lines = [line for line in dict.fromkeys(lines) if line]
        if _CALLED_BACK in lines:
            # The text has its own type; its stack continues that of the graph, if there is one.
            reason = _shorten(lines[: lines.index(_CALLED_BACK)])
            return Message(text=reason, stacks=[[frame for stack in stacks for frame in stack]])
        reason = _shorten(lines)
    # After its stack AutoGraph repeats the error with its type, which is not always this error's.
    return Message(text=reason if traced and not numerics else f"{type(error).__name__}: {reason}", stacks=stacks)


def plain_sentence(error: BaseException) -> str | None:
    """One sentence of advice for an error that users of TensorFlow often get, or None."""
    text = f"{type(error).__name__}: {error}"
    return next((known.advice for known in _KNOWN if known.matches(text)), None)


def code_of_trace_error(error: BaseException) -> str | None:
    """The code that `inspect` has for an error that tracing raised, or None."""
    text = f"{type(error).__name__}: {error}"
    return next((known.code for known in _KNOWN if known.code and known.matches(text, tracing=True)), None)


def code_of_dropped_check(error: BaseException) -> str | None:
    """The code that `inspect` has for the error of a check that XLA drops, or None."""
    if not isinstance(error, (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError)):
        return None
    message = read(error)
    text = " ".join((message.text if message is not None else str(error)).split())
    return next((known.code for known in _DROPPED_BY_XLA if known.matches(text)), None)


def find_place(error: BaseException) -> Location | None:
    """The innermost of the user's lines in an error: in TensorFlow's message, else in the traceback.

    Who called the library is left out.
    """
    message = read(error)
    for stack in message.stacks if message is not None else ():
        if (found := innermost(_as_tuples(stack))) is not None:
            return found
    frames = _as_tuples(traceback.extract_tb(error.__traceback__))
    return innermost(itertools.dropwhile(lambda frame: is_users(frame[0]), frames))


def _as_tuples(stack: Iterable[traceback.FrameSummary]) -> list[tuple[str, int, str]]:
    return [(frame.filename, frame.lineno or 1, frame.name) for frame in stack]


def _without_stacks(text: str) -> tuple[list[list[traceback.FrameSummary]], str]:
    """The stacks in a message, and the rest of it."""
    stacks: list[list[traceback.FrameSummary]] = []
    rest: list[str] = []
    indent = None  # of the stack's lines, inside one; what is indented more is the source of the line above
    for line in text.splitlines():
        if frame := _FRAME.match(line):
            if indent is None:
                stacks.append([])
            indent = len(frame["indent"])
            found = traceback.FrameSummary(frame["file"], int(frame["line"]), frame["name"])
            if found not in stacks[-1][-1:]:  # what a lambda in a tf.cond makes has its line twice
                stacks[-1].append(found)
        elif indent is None or (line.strip() and len(line) - len(line.lstrip()) <= indent):
            indent = None
            rest.append(line)
    return [_complete(stack) for stack in stacks], "\n".join(rest)


def _complete(stack: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """The stack with whole paths: XLA leaves out the folder that all files are in, which the library's own files show."""
    files = [frame.filename for frame in stack if not frame.filename.startswith(("/", "<"))]
    for file in files:
        _, package, inside = file.rpartition(f"{_PACKAGE.name}/")
        own = str(_PACKAGE / inside)
        folder = own.removesuffix(file)
        if package and own != folder and all(os.path.exists(folder + one) for one in files):
            return [
                traceback.FrameSummary(folder + one.filename, one.lineno, one.name) if one.filename in files else one
                for one in stack
            ]
    return stack


def _shorten(lines: list[str]) -> str:
    shown = [line if len(line) <= _MOST_LETTERS else f"{line[:_MOST_LETTERS]} ..." for line in lines[:_MOST_LINES]]
    if len(lines) > _MOST_LINES:
        shown.append("...")
    return textwrap.dedent("\n".join(shown)).strip()
