"""TensorFlow's error messages taken apart: what went wrong, and at which lines of Python.

    message = tf_errors.read(error)
    message.text       "InvalidArgumentError: indices = 1000 is not in [0, 10)"
    message.stacks     [[<FrameSummary file recipes/mine.py, line 15 in pick>]]

An operation of a graph fails long after the Python that made it has run: its lines are in the message and in no
traceback. Around the one line that matters stand the stack of the whole program, names of nodes and whole tensors.
"""

from __future__ import annotations

import dataclasses
import os
import re
import textwrap
import traceback
from pathlib import Path

import tensorflow as tf

_PACKAGE = Path(__file__).parents[1]
_MOST_LINES = 6
_MOST_LETTERS = 400

_AUTOGRAPH = "in user code:"  # AutoGraph opens its messages so, whatever the type of the error
_FRAME = re.compile(r'(?P<indent>\s*)File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)')
# Lines that say nothing by themselves.
_NOISE = re.compile(
    r"\s*(Graph execution error:|Detected at node .*|Stack trace for op definition:|The op is created at:|\[\[.*\]\].*"
    r"|tf2xla conversion failed .*|Hint: If you want to see a list of allocated tensors .*|\d+ root error\(s\) found\."
    r"|\d+ (successful operations|derived errors ignored)\..*)\s*"
)
# Parts of lines that say nothing: names of nodes and of operations' wrappers, numbers of root errors, colours.
_MARKS = re.compile(
    r"( compatible with node )?\{\{(function_)?node [^{}]*\}\}|\s*\[Op:\w*\]( name:.*)?|^\s*\(\d+\) [A-Z_]+: "
    r"|\x1b\[\d*m",
    re.M,
)
# How shape functions name an operation: "for '{{node matmul}} = MatMul[T=DT_FLOAT, ...](a, b)' with input shapes".
_OPERATION = re.compile(r"'\{\{node [^{}]*\}\} = (\w+)[^\n]*?\)'(?= with )")
# What tf.debugging.enable_check_numerics says, with a stack of its own and, in eager mode, every number of the input.
_NUMERICS = re.compile(
    r'!!! Detected Infinity or NaN in output (?P<output>\d+) of [\w-]+ op "(?P<op>[^"]+)"[\s\S]*?'
    r"dtype: <dtype: '(?P<dtype>\w+)'>\s*shape: (?P<shape>\([^)]*\))[\s\S]*: Tensor had (?P<made>[^\n]*?) values"
)

# What stands between the error of a Python function that a graph has called (tf.py_function) and its stack.
_CALLED_BACK = "Traceback (most recent call last):"


# What users of tf.function run into every day: (pattern of TensorFlow's message, one plain sentence).
_EVERYDAY = (
    (
        r"tf\.function only supports singleton tf\.Variables|creat\w+ variables on (a )?non-first call"
        r"|tf\.function-decorated function tried to create variables",
        "A step made a variable (or a layer, optimizer or metric, which make variables): a traced step would make it "
        "again at each trace. Make it in the recipe's __init__ and use it in the step.",
    ),
    (
        r"has no attribute 'numpy'|\.numpy\(\) is not supported|numpy\(\) is only available when eager"
        r"|Cannot convert a symbolic .*[Tt]ensor.* to a numpy array|NotImplementedError: numpy"
        # math.exp(), int(), an index, a format, .item()
        r"|(Type|Attribute)Error: [^\n]*SymbolicTensor|Expected any non-tensor type, but got a tensor",
        "A step asked for the value of a tensor (.numpy(), float(), np.asarray): a traced step has no values yet. Use "
        "TensorFlow operations instead, or return the tensor from the step and look at it in a callback.",
    ),
    (
        r"(IteratorGetNext|IteratorGetNextAsOptional).*(unsupported|not supported|XLA|compil)"
        r"|(unsupported|compil|XLA)[\s\S]*IteratorGetNext",
        "A step read from an iterator: no iterator can be inside a compiled program. A step takes a batch; take what "
        "it needs from the batch, or add it in the recipe's prepare.",
    ),
    (
        r"Using a symbolic `?tf\.Tensor`? as a Python `?bool`?|OperatorNotAllowedInGraphError"
        r"|len is not well defined for a symbolic",
        "A step used a tensor where Python needs a plain value (if, for, and, len, int): move that line into a "
        "function of the recipe's own file, where it is converted, or use tf.cond, tf.where or tf.range.",
    ),
    (
        r"Detected unsupported operations when trying to compile graph|No registered '[^']+' OpKernel for XLA",
        "A step uses an operation that XLA cannot compile (named above): replace it, or type mode=graph.",
    ),
    (
        r"ResourceExhaustedError|MemoryError|OOM when allocating|[Oo]ut of memory|bad_alloc|failed to allocate memory",
        "The step needs more memory than there is. Type optimizer.accumulate=2 (the same update from half the memory at a "
        "time), a smaller data.batch_size=, or mode.steps_per_call=1.",
    ),
    (
        r"out of scope|is from a different graph|cannot be accessed here, because it was defined in",
        "A tensor of one trace was kept and used in another (an attribute, a list or a global that a step wrote): "
        "return it from the step instead.",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """What a message of TensorFlow's says.

    Attributes:
      text: type and reason of the error, a few lines.
      stacks: lines of Python, outermost first; a stack for each operation that the message is about.
    """

    text: str
    stacks: list[list[traceback.FrameSummary]]


def read(error: BaseException) -> Message | None:
    """What an error's message says; None for one that did not come from TensorFlow, whose every word may count."""
    said = str(error)
    traced = said.startswith(_AUTOGRAPH)
    if not traced and not isinstance(error, tf.errors.OpError):
        return None
    stacks, rest = _without_stacks(said.removeprefix(_AUTOGRAPH))
    if numerics := _NUMERICS.search(said):
        reason = "operation {op} made {made}: output {output}, {dtype} of shape {shape}".format(**numerics.groupdict())
    else:
        lines = [
            line.rstrip()
            for line in _MARKS.sub("", _OPERATION.sub(r"\1", rest)).splitlines()
            if not _NOISE.fullmatch(line)
        ]
        lines = [line for line in dict.fromkeys(lines) if line]
        if _CALLED_BACK in lines:
            # Its own type is told, and its stack goes on where the graph's, if there is one, has ended.
            text = _shortened(lines[: lines.index(_CALLED_BACK)])
            return Message(text=text, stacks=[[frame for stack in stacks for frame in stack]])
        reason = _shortened(lines)
    # After its stack AutoGraph repeats the error with its type, which is not always this error's.
    return Message(text=reason if traced and not numerics else f"{type(error).__name__}: {reason}", stacks=stacks)


def plain_sentence(error: BaseException) -> str | None:
    """One sentence for a mistake that users of tf.function make every day, or None."""
    text = f"{type(error).__name__}: {error}"
    return next((sentence for pattern, sentence in _EVERYDAY if re.search(pattern, text)), None)


def _without_stacks(said: str) -> tuple[list[list[traceback.FrameSummary]], str]:
    """The stacks in a message, and the rest of it."""
    stacks: list[list[traceback.FrameSummary]] = []
    rest: list[str] = []
    indent = None  # of the stack's lines, inside one; what is indented more is the source of the line above
    for line in said.splitlines():
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
    """The stack with whole paths: XLA leaves out the folder that all files are in, and the library's own files tell which."""
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


def _shortened(lines: list[str]) -> str:
    shown = [line if len(line) <= _MOST_LETTERS else f"{line[:_MOST_LETTERS]} ..." for line in lines[:_MOST_LINES]]
    if len(lines) > _MOST_LINES:
        shown.append("...")
    return textwrap.dedent("\n".join(shown)).strip()
