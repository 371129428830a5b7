"""What one key of the configuration takes, and how that is said."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from modetrain.errors import closest


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """What one key takes.

    Attributes:
      kind: `int`, `float`, `bool`, `str`, `name` (a text that can name a folder), `size` (a pair of whole numbers),
        `list`, or `duration` (see `seconds`).
      help: what it is, in a few words.
      example: a value to propose where a wrong one was given.
      optional: whether it may be null.
      choices: the only values, for a `str`; or the words that an `int`, a `bool` or a `list` may be instead.
      at_least, above, at_most, below: bounds of a number.
      each: what the values of a `list` are; None for anything.
      shortest: least length of a `list`.
      lenient: an infinity is a number and an empty text a text too: in the user's own code they may mean something.
      path: whether a `str` is the path of a file or folder.
      common: whether `--help` lists it.
      meant: words that people try for one of the choices, with that choice.
      also: other names that people try.
    """

    kind: str
    help: str
    example: Any
    optional: bool = False
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    each: Key | None = None
    shortest: int = 0
    lenient: bool = False
    path: bool = False
    common: bool = False
    meant: Mapping[str, str] = dataclasses.field(default_factory=dict)
    also: tuple[str, ...] = ()

    def takes(self, value: Any = None) -> str:
        """In words, what values are good; a bound that only the largest numbers meet is named if `value` is one."""
        if self.kind == "str" and self.choices:
            text = "one of " + ", ".join(self.choices)
        elif self.kind == "list":
            text = "a list" + (f" of {self.shortest} or more" if self.shortest else "")
            text += f", each {self.each.takes()}" if self.each is not None else ""
            text += f", or one of {', '.join(self.choices)}" if self.choices else ""
        else:
            text = {
                "int": "a whole number",
                "float": "a number",
                "bool": "true or false",
                "str": "a text",
                "name": "letters, digits and . _ + -",
                "size": "a pair [height, width] of whole numbers from 1",
                "duration": "a time such as 30s, 90m, 2h or 1h30m" + (" or 0" if self.at_least == 0 else ""),
            }[self.kind]
            bounds = (
                ("of at least", self.at_least if self.kind != "duration" else None),
                ("above", self.above),
                ("of at most", self.at_most),
                ("below", self.below),
            )
            far = 1e9 if not isinstance(value, int | float) else max(1e9, value)
            limits = [f"{word} {bound}" for word, bound in bounds if bound is not None and bound < far]
            text += (" " + " and ".join(limits) if limits else "") + "".join(f" or {word}" for word in self.choices)
        return text + (" or null" if self.optional else "")

    def accepts(self, value: Any) -> bool:
        """Whether a value has the right type and lies within the bounds."""
        if value is None:
            return self.optional
        if self.kind == "bool":
            return isinstance(value, bool) or (isinstance(value, str) and value in self.choices)
        if self.kind == "str":
            some = value != "" or self.lenient
            return isinstance(value, str) and some and (not self.choices or value in self.choices)
        if self.kind == "name":
            return isinstance(value, str) and re.fullmatch(r"[\w+-][\w.+-]*", value) is not None
        if self.kind == "size":
            number = Key(kind="int", help="", example=0, at_least=1)
            return isinstance(value, list | tuple) and len(value) == 2 and all(number.accepts(one) for one in value)
        if self.kind == "duration":
            none = isinstance(value, int | float) and not isinstance(value, bool) and value == self.at_least == 0
            return none or seconds(value) is not None
        if self.kind == "list" and not (self.choices and isinstance(value, str)):
            each = self.each
            long_enough = isinstance(value, list | tuple) and len(value) >= self.shortest
            # What is itself built from the config (a mapping with its `_target_`) can be anything.
            return long_enough and (each is None or all(isinstance(v, Mapping) or each.accepts(v) for v in value))
        if isinstance(value, str):
            return value in self.choices
        types = int if self.kind == "int" else (int, float)
        if not isinstance(value, types) or isinstance(value, bool) or not (math.isfinite(value) or self.lenient):
            return False
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def propose(self, value: Any) -> Any:
        """The good value that was probably meant by a wrong one, else the example."""
        if isinstance(value, str) and self.choices:
            return self.meant.get(value.lower()) or closest(value.lower(), self.choices) or self.example
        if self.kind == "bool":
            words = {"yes": True, "on": True, "1": True, "no": False, "off": False, "0": False}
            return words.get(str(value).lower(), self.example)
        if self.kind == "int" and isinstance(value, float) and math.isfinite(value) and self.accepts(int(value)):
            return int(value)
        if self.kind == "str" and value is not None and not isinstance(value, str | list | dict) and not self.choices:
            return f"./{text(value)}" if self.path else f"'\"{text(value)}\"'"
        if self.kind == "list" and self.each is not None and self.accepts([value]):
            return [value]
        return self.example

    def wrong(self, name: str, value: Any) -> str:
        """In words, why a value is not accepted for the key of this name, and what to type."""
        kind = {bool: "a truth value", int: "a whole number", float: "a number", str: "a text", list: "a list"}
        seen = repr(value) if isinstance(value, str) else text(value)
        # "is a text" explains nothing where the type is right and the bound or the choice is not.
        number = isinstance(value, int | float) and not isinstance(value, bool)
        right = self.kind in ("int", "float") if number else isinstance(value, str) and self.kind in ("str", "name")
        right = right or (isinstance(value, list) and self.kind == "list")
        if self.kind == "duration" and isinstance(value, float) and math.isinf(value):
            is_a = ", which has no end"
        else:
            is_a = "" if right or value is None else f", which is {kind.get(type(value), 'a section')}"
        proposal = self.propose(value)
        near = isinstance(value, str) and self.choices and (proposal != self.example or value.lower() in self.meant)
        ask = f"Did you mean {name}={text(proposal)}?" if near else f"Type for example {name}={text(proposal)}."
        help = f" ({self.help})" if self.help else ""
        return f"{name}{help} takes {self.takes(value)}, not {seen}{is_a}. {ask}"


def seconds(value: Any) -> float | None:
    """The seconds that `30s`, `90m`, `2h`, `1d12h` or a number of seconds come to; None for anything else, or nothing."""
    if isinstance(value, int | float) and not isinstance(value, bool):
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
    return str(value).lower() if isinstance(value, bool) else str(value)
