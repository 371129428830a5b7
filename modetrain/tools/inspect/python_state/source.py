"""The source of the user's functions as syntax trees, and the lines in it that read or change a value."""

from __future__ import annotations

import ast
import functools
import linecache
import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from modetrain.diagnostics.location import Location

# In TensorFlow's error for a step that changes the batch it is given, which names no line.


@functools.lru_cache(maxsize=256)
def tree_of_file(file: str) -> ast.Module | None:
    """The syntax tree of a file; None where there is no source."""
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return None


def nodes_of_file(file: str) -> Iterator[Any]:
    """Every node of a file's syntax tree."""
    tree = tree_of_file(file)
    return ast.walk(tree) if tree is not None else iter(())


def tree_of(function: types.FunctionType) -> Any:
    """The syntax tree of a function: its `def`, or its lambda; None where there is no source."""
    code = function.__code__
    return next((node for node in _functions_in(code.co_filename) if _first_line(node) == code.co_firstlineno), None)


def nodes_of(function: types.FunctionType) -> Iterator[Any]:
    """Every node of a function's syntax tree."""
    tree = tree_of(function)
    return ast.walk(tree) if tree is not None else iter(())


@functools.lru_cache(maxsize=256)
def _functions_in(file: str) -> tuple[ast.AST, ...]:
    return tuple(n for n in nodes_of_file(file) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def _first_line(node: Any) -> int:
    """The line a function begins at, as its code object counts: at the first decorator."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])


def start_of(function: Any) -> Location:
    """The line a function begins at."""
    return Location(file=function.__code__.co_filename, line=function.__code__.co_firstlineno)


def spans(node: Any, line: int) -> bool:
    """Whether a line is one of a node's."""
    return hasattr(node, "lineno") and node.lineno <= line <= (node.end_lineno or node.lineno)


def called_name(node: ast.AST) -> str:
    """The last name of what a call, or a decorator, calls: `stack` of `tf.stack(rows)`."""
    function = node.func if isinstance(node, ast.Call) else node
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


# --- expressions such as `self.history['loss'][0]` --------------------------------------------------------------------


def last_name(expression: str) -> str:
    """The last name in an expression, outside of brackets: `history` of `self.history['loss'][0]`."""
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\[.*?\]|\(.*?\)", "", expression))
    return names[-1] if names else ""


def find_change(expression: str, functions: Iterable[types.FunctionType]) -> Location | None:
    """The first line in the functions that changes what an expression names, found by its last name."""
    return _find(expression, functions, _changed_nodes)


def find_read(expression: str, functions: Iterable[types.FunctionType]) -> Location | None:
    """The first line in the functions that reads what an expression names, found by its last name."""
    return _find(expression, functions, lambda node: [node] if isinstance(getattr(node, "ctx", None), ast.Load) else [])


def _find(
    expression: str, functions: Iterable[types.FunctionType], nodes_named_by: Callable[[ast.AST], Sequence[ast.AST]]
) -> Location | None:
    name = last_name(expression)
    for function in functions:
        for node in nodes_of(function):
            if name and any(_last_name_of(named) == name for named in nodes_named_by(node)):
                return Location(file=function.__code__.co_filename, line=node.lineno)
    return None


def _changed_nodes(node: Any) -> Sequence[ast.AST]:
    """What a statement assigns to; what a call may change: the object of a method, or an argument, as in `next(it)`."""
    if isinstance(node, ast.Assign):
        return node.targets
    if isinstance(node, ast.AugAssign):
        return [node.target]
    if isinstance(node, ast.Call):
        return [*([node.func.value] if isinstance(node.func, ast.Attribute) else []), *node.args]
    return []


def _last_name_of(node: ast.AST) -> str | None:
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None
