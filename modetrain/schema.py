"""What a key of the configuration, or a parameter of a user's class, takes: its type and a few limits, and how to say so.

    steps: int = key(1000, "number of updates", at_least=1, common=True)     # in settings.py
    shift: Annotated[int, Bounds(at_least=0)] = 0                            # in a recipe

`Value` joins a type and its limits. It checks values, and words a wrong one: what is taken, what was seen, what to type.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union

from modetrain.errors import closest

REQUIRED = dataclasses.MISSING  # the default of a key that has none
NAME = r"[\w+-][\w.+-]*"  # a text that can name a folder
_MAPPINGS = (dict, collections.abc.Mapping)
_LISTS = (list, tuple, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds of a number that a recipe or a model takes, or of each in a list: `Annotated[float, Bounds(above=0)]`."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """How long a list must be that a recipe or a model takes: `Annotated[Sequence[int], Length(at_least=1)]`."""

    at_least: int


@dataclasses.dataclass(frozen=True)
class Key(Bounds):
    """What there is to know of a key besides its type and default. Bounds hold for a number, or for each in a list.

    Attributes:
      help: what it is, in a few words.
      example: a value to propose where a wrong one was given; by default the key's default.
      choices: the only texts that are taken.
      shortest: least length of a list.
      pattern: a regular expression that a text has to match.
      duration: whether it takes a time such as `90m`, which becomes seconds.
      takes: what it takes in words, where its type does not say it well.
      path: whether a text is the path of a file or folder.
      common: whether `--help` lists it.
      also: other names that people try, with spaces between them; they take the same value.
      meant: words that people try for one of the choices, with that choice.
      affects: what changes with it: `numbers` (what the same steps compute), `placement` (where and how steps run),
        `machine` (it may differ from machine to machine), `run` (it belongs to the run and not to its steps). By default
        the class's `AFFECTS`, else `numbers`.
      only: another key and the values of it without which this one has no effect: `("do.name", "compare")`. By default
        the class's `ONLY`.
      name: the key's name where the field has another one.
      lenient: an infinity is a number and an empty text a text too: in the user's own code they may mean something.
    """

    help: str = ""
    example: Any = None
    _: dataclasses.KW_ONLY
    choices: tuple[str, ...] = ()
    shortest: int = 0
    pattern: str | None = None
    duration: bool = False
    takes: str = ""
    path: bool = False
    common: bool = False
    also: str = ""
    meant: Mapping[str, str] = dataclasses.field(default_factory=dict)
    affects: tuple[str, ...] | None = None
    only: tuple[str, ...] | None = None
    name: str = ""
    lenient: bool = False

    def marked(self, markers: Sequence[Any]) -> Key:
        """The same with the limits that the markers of an `Annotated` set."""
        key = self
        for marker in markers:
            if isinstance(marker, Bounds):
                given = {name: value for name, value in dataclasses.asdict(marker).items() if value is not None}
                key = dataclasses.replace(key, **given)
            elif isinstance(marker, Length):
                key = dataclasses.replace(key, shortest=marker.at_least)
        return key

    def holds(self, number: float) -> bool:
        """Whether a number lies within the bounds."""
        within = self.at_least is None or number >= self.at_least, self.above is None or number > self.above
        below = self.at_most is None or number <= self.at_most, self.below is None or number < self.below
        return all((*within, *below)) and (math.isfinite(number) or self.lenient)

    def limits(self, far: float) -> str:
        """The bounds in words, those below `far`."""
        names = {"of at least": self.at_least, "above": self.above, "of at most": self.at_most, "below": self.below}
        found = [f"{word} {bound}" for word, bound in names.items() if bound is not None and bound < far]
        return " " + " and ".join(found) if found else ""


def key(default: Any, help: str, example: Any = None, **more: Any) -> Any:
    """A dataclass field that is a key of the configuration; for the arguments see `Key`."""
    return dataclasses.field(default=default, metadata={"key": Key(help, example, **more)})


def common(default: Any, help: str, example: Any = None, **more: Any) -> Any:
    """A key that `--help` lists."""
    return key(default, help, example, common=True, **more)


class Kind(NamedTuple):
    """What an annotation says: which values are good, in words and by example (none where nothing is understood of it)."""

    accepts: Callable[[Any], bool]
    words: Callable[[float], str]  # a bound is named only where it is below this
    examples: tuple[Any, ...]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def kind_of(annotation: Any, key: Key) -> Kind:
    """Reads an annotation, with the limits of a key; what is not understood of it takes anything."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return kind_of(args[0], key.marked(args[1:]))
    if annotation is None or annotation is type(None):
        return Kind(lambda value: value is None, lambda far: "null", ())
    if origin in (Union, types.UnionType):
        # The words that a number or a list may be instead come after it.
        order = sorted(args, key=lambda one: (one is type(None), one is str or typing.get_origin(one) is Literal))
        kinds = [kind_of(one, key) for one in order]
        return Kind(
            lambda value: any(kind.accepts(value) for kind in kinds),
            lambda far: " or ".join(kind.words(far) for kind in kinds),
            tuple(one for kind in kinds for one in kind.examples),
        )
    if key.duration:
        none = " or 0" if key.at_least == 0 else ""
        return Kind(
            lambda value: seconds(value) is not None or (_is_number(value) and value == key.at_least == 0),
            lambda far: f"a time such as 30s, 90m, 2h or 1h30m{none}",
            ("10m",),
        )
    if annotation is bool:
        return Kind(lambda value: isinstance(value, bool), lambda far: "true or false", (True,))
    if annotation is str or origin is Literal:
        choices = args or key.choices
        said = f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else "".join(map(str, choices)) or "a text"
        return Kind(
            lambda value: (
                any(value == one and type(value) is type(one) for one in choices or (value,))
                and (origin is Literal or (isinstance(value, str) and (value != "" or key.lenient)))
                and (key.pattern is None or re.fullmatch(key.pattern, value) is not None)
            ),
            lambda far: key.takes or said,
            choices or ("TEXT",),
        )
    if annotation in (int, float):
        return Kind(
            lambda value: _is_number(value) and (annotation is float or isinstance(value, int)) and key.holds(value),
            lambda far: ("a whole number" if annotation is int else "a number") + key.limits(far),
            (*((1, 0, 2) if annotation is int else (0.5, 1.0, 0.0)), key.at_least, key.at_most),
        )
    if (origin or annotation) in _MAPPINGS:
        names, values = (
            kind_of(args[0] if args else str, Key(pattern=key.pattern)),
            kind_of(args[1] if args else Any, Key()),
        )
        return Kind(
            lambda value: (
                isinstance(value, Mapping)
                and all(names.accepts(one) for one in value)
                and all(values.accepts(one) for one in value.values())
            ),
            lambda far: key.takes or "a mapping {NAME: VALUE}",
            (),
        )
    return _list_of(origin, args, key) if (origin or annotation) in _LISTS else ANYTHING


def _list_of(origin: Any, args: tuple[Any, ...], key: Key) -> Kind:
    fixed = origin is tuple and args[-1] is not ...
    kinds = [kind_of(one, key) for one in (args if fixed else args[:1] or (Any,))]

    def accepts(value: Any) -> bool:
        right = len(value) == len(kinds) if fixed else len(value) >= key.shortest
        # What is itself built from the config (a mapping with its `_target_`) can be anything.
        each = zip(value, kinds if fixed else kinds * len(value), strict=False)
        return right and all(isinstance(one, Mapping) or kind.accepts(one) for one, kind in each)

    length, count = f" of {key.shortest} or more" if key.shortest else "", len(kinds) if fixed else max(key.shortest, 1)
    return Kind(
        lambda value: isinstance(value, list | tuple) and accepts(value),
        lambda far: key.takes or f"a list{length}" + (f", each {kinds[0].words(far)}" if kinds[0].examples else ""),
        tuple([one] * count for one in kinds[0].examples or (1,)),
    )


ANYTHING = Kind(lambda value: True, lambda far: "anything", ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """What one key or parameter takes.

    Attributes:
      type: a Python annotation.
      key: its limits and its help.
      default: what it is where nothing is given; `REQUIRED` where something has to be.
    """

    type: Any
    key: Key
    default: Any = REQUIRED

    @functools.cached_property
    def kind(self) -> Kind:
        return kind_of(self.type, self.key)

    @property
    def example(self) -> Any:
        """A value to propose, which is accepted."""
        given = (self.key.example, None if self.default is REQUIRED else self.default, *self.kind.examples)
        return next((one for one in given if one is not None and self.accepts(one)), "VALUE")

    def accepts(self, value: Any) -> bool:
        """Whether a value has the right type and lies within the limits."""
        return self.kind.accepts(value)

    def propose(self, value: Any) -> Any:
        """The good value that was probably meant by a wrong one, else the example."""
        words = {"yes": True, "on": True, "1": True, "no": False, "off": False, "0": False}
        texts = [one for one in self.kind.examples if isinstance(one, str)]
        near: list[Any] = [self.key.meant.get(str(value).lower()), words.get(str(value).lower()), [value]]
        if isinstance(value, str) and texts != ["TEXT"]:
            near.insert(1, closest(value.lower(), texts))
        elif _is_number(value) and math.isfinite(value):
            near += [int(value), f"./{value}" if self.key.path else f"'\"{value}\"'"]
        return next((one for one in near if one is not None and self.accepts(one)), self.example)

    def wrong(self, name: str, value: Any) -> str:
        """Why a value is not accepted for the key of this name, and what to type."""
        names = {bool: "a truth value", int: "a whole number", float: "a number", str: "a text", list: "a list"}
        takes = self.kind.words(max(1e9, value) if _is_number(value) else 1e9)
        proposal, kind = self.propose(value), names.get(type(value), "a section")
        # "is a text" explains nothing where the type is right and the bound or the choice is not.
        explained = value is None or kind in takes or (_is_number(value) and "number" in takes) or self.key.choices
        is_a = "" if explained else f", which is {kind}"
        if self.key.duration and _is_number(value) and math.isinf(value):
            is_a = ", which has no end"
        near = isinstance(value, str) and (
            value.lower() in self.key.meant or proposal not in (self.example, True, False)
        )
        ask = f"Did you mean {name}={text(proposal)}?" if near else f"Type for example {name}={text(proposal)}."
        help = f" ({self.key.help})" if self.key.help else ""
        return f"{name}{help} takes {takes}, not {repr(value) if isinstance(value, str) else text(value)}{is_a}. {ask}"


def seconds(value: Any) -> float | None:
    """The seconds of `30s`, `90m`, `2h`, `1d12h` or a number of seconds; None for anything else, or nothing."""
    if _is_number(value):
        return float(value) if value > 0 and math.isfinite(value) else None
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    number = r"\d+(?:\.\d+)?"
    if not isinstance(value, str) or not re.fullmatch(rf"(?:{number}[dhms])+", value):
        return None
    return sum(float(count) * units[unit] for count, unit in re.findall(rf"({number})([dhms])", value)) or None


def text(value: Any) -> str:
    """A value as it would be typed."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(text(one) for one in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{text(one)}' for name, one in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)
