"""What a parameter takes, read from the text of its annotation: nothing is imported.

    shift: int                                       a whole number
    rate: Annotated[float, Bounds(below=1)] | None   a number below 1, or null
    sizes: Annotated[list[int], Length(at_least=1)]  a list of 1 or more, each a whole number
    kind: Literal["mean", "max"]                     one of mean, max

What is not understood is taken as anything, and so is an annotation that contradicts the parameter's own default.
"""

from __future__ import annotations

import ast
import dataclasses
from typing import TYPE_CHECKING, Any

from modetrain.config.key import Bounds, Key, Length

if TYPE_CHECKING:
    from modetrain.config.signatures import SourceText

_PLAIN = ("int", "float", "bool", "str")
_LISTS = ("list", "List", "Sequence", "Iterable", "Collection")
_TUPLES = ("tuple", "Tuple")
# A value to propose where neither the config nor the code has one that is accepted.
_EXAMPLES = {"int": (1, 0, 2), "float": (0.5, 1.0, 0.0), "bool": (True,), "str": ("TEXT",)}
_MARKERS: dict[str, type] = {"Bounds": Bounds, "Length": Length}
_DEEPEST = 10  # aliases of aliases


def key_of(annotation: ast.expr | None, default: ast.expr | None, module: str, sources: SourceText) -> Key | None:
    """What a parameter takes, or None for anything.

    Args:
      annotation: the parameter's.
      default: its default value, None where there is none.
      module: where they stand.
      sources: where names are looked up.
    """
    key = _read(annotation, module, sources, _DEEPEST)
    if key is None or default is None:
        return key and with_example(key)
    try:
        value = ast.literal_eval(default)
    except (TypeError, ValueError):  # an expression
        return with_example(key)
    if value is None:
        key = dataclasses.replace(key, optional=True)
    return with_example(key, value) if key.accepts(value) else None


def with_example(key: Key, *preferred: Any) -> Key:
    """The same with a value to propose: the first of the preferred ones, and of some others, that is accepted."""
    if key.kind == "list":
        one = with_example(key.each).example if key.each is not None else 1
        others: tuple[Any, ...] = ([one] * max(key.shortest, 1),)
    else:
        others = (*key.choices, *_EXAMPLES[key.kind], key.at_least, key.at_most)
    accepted = (value for value in (*preferred, *others) if value is not None and key.accepts(value))
    return dataclasses.replace(key, example=next(accepted, "VALUE"))


def _plain(kind: str, **more: Any) -> Key:
    return Key(kind=kind, help="", example=None, lenient=True, **more)


def _read(node: ast.expr | None, module: str, sources: SourceText, depth: int) -> Key | None:
    def read(inner: ast.expr) -> Key | None:
        return _read(inner, module, sources, depth - 1)

    if depth == 0:
        return None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return read(ast.parse(node.value, mode="eval").body)
        except SyntaxError:
            return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([node.left, node.right], read)
    if isinstance(node, ast.Subscript):
        return _subscript(node, module, sources, read)
    if isinstance(node, ast.Name):
        if node.id in _PLAIN:
            return _plain(node.id)
        if node.id not in (*_LISTS, *_TUPLES):
            alias = sources.alias(module, node.id)
            return _read(alias[1], alias[0], sources, depth - 1) if alias else None
    return _plain("list") if _name(node) in (*_LISTS, *_TUPLES) else None


def _subscript(node: ast.Subscript, module: str, sources: SourceText, read) -> Key | None:
    name = _name(node.value)
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Optional":
        return _union([*inner, ast.Constant(None)], read)
    if name == "Union":
        return _union(inner, read)
    if name == "Literal":
        values = [one.value if isinstance(one, ast.Constant) else ... for one in inner]
        texts = tuple(value for value in values if isinstance(value, str))
        return _plain("str", choices=texts) if len(texts) == len(values) else None
    if name == "Annotated":
        key = read(inner[0])
        for marker in inner[1:]:
            key = _marked(key, marker, module, sources)
        return key
    homogeneous = len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...
    return _plain("list", each=read(inner[0])) if name in _LISTS or (name in _TUPLES and homogeneous) else None


def _union(members: list[ast.expr], read) -> Key | None:
    """`X | None`, `int | float` and `int | Literal["auto"]`; anything for all other unions."""
    optional = any(isinstance(one, ast.Constant) and one.value is None for one in members)
    keys = [read(one) for one in members if not (isinstance(one, ast.Constant) and one.value is None)]
    if not keys or any(key is None for key in keys):
        return None
    key = keys[0]
    for other in keys[1:]:
        texts = [one for one in (key, other) if one.kind == "str" and one.choices]
        numbers = [one for one in (key, other) if one.kind in ("int", "float")]
        if len(numbers) == 2 and _unbounded(key) and _unbounded(other):
            key = dataclasses.replace(numbers[0], kind="float" if "float" in (key.kind, other.kind) else "int")
        elif len(texts) == len(numbers) == 1:
            key = dataclasses.replace(numbers[0], choices=(*numbers[0].choices, *texts[0].choices))
        else:
            return None
        optional = optional or other.optional
    return dataclasses.replace(key, optional=optional or key.optional)


def _unbounded(key: Key) -> bool:
    return (key.at_least, key.above, key.at_most, key.below, key.choices) == (None, None, None, None, ())


def _marked(key: Key | None, marker: ast.expr, module: str, sources: SourceText) -> Key | None:
    """The key within `Bounds(...)` or `Length(...)`; any other marker says nothing to us."""
    if key is None or not isinstance(marker, ast.Call) or marker.args or _name(marker.func) not in _MARKERS:
        return key
    name = _name(marker.func)
    if isinstance(marker.func, ast.Name) and not sources.is_ours(module, name):
        return key
    try:
        given = {one.arg: ast.literal_eval(one.value) for one in marker.keywords if one.arg}
        made = _MARKERS[name](**given)
    except (TypeError, ValueError):  # not a literal, or no such bound: its import will tell
        return key
    if isinstance(made, Length):
        return dataclasses.replace(key, shortest=made.at_least) if key.kind == "list" else key
    if key.kind == "list" and key.each is not None and key.each.kind in ("int", "float"):
        return dataclasses.replace(key, each=dataclasses.replace(key.each, **given))
    return dataclasses.replace(key, **given) if key.kind in ("int", "float") else key


def _name(node: ast.expr | None) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
