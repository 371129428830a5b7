"""What one key of the configuration takes, and how that is said."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from modetrain.errors import closest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """What one key takes.

    Attributes:
      kind: `int`, `float`, `bool`, `str`, `name` (a text that can name a folder), `size` (a pair of whole numbers) or
        `numbers` (a list of whole numbers from 0).
      help: what it is, in a few words.
      example: a value to propose where a wrong one was given.
      optional: whether it may be null.
      choices: the only values, for a `str`; or the words that `int`, `bool` and `numbers` may be instead.
      at_least, above, at_most, below: bounds of a number.
      common: whether `--help` lists it.
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
    common: bool = False
    also: tuple[str, ...] = ()

    def takes(self, value: Any = None) -> str:
        """In words, what values are good; a bound that only the largest numbers meet is named if `value` is one."""
        if self.kind == "str" and self.choices:
            text = "one of " + ", ".join(self.choices)
        else:
            text = {
                "int": "a whole number",
                "float": "a number",
                "bool": "true or false",
                "str": "a text",
                "name": "letters, digits and . _ + -",
                "size": "a pair [height, width] of whole numbers from 1",
                "numbers": "a list of whole numbers from 0, such as [0,1],",
            }[self.kind]
            bounds = (
                ("of at least", self.at_least),
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
            return isinstance(value, str) and value != "" and (not self.choices or value in self.choices)
        if self.kind == "name":
            return isinstance(value, str) and re.fullmatch(r"[\w+-][\w.+-]*", value) is not None
        if self.kind == "size":
            number = Key(kind="int", help="", example=0, at_least=1)
            return isinstance(value, list | tuple) and len(value) == 2 and all(number.accepts(one) for one in value)
        if isinstance(value, str):
            return value in self.choices
        if self.kind == "numbers":
            number = Key(kind="int", help="", example=0, at_least=0)
            return isinstance(value, list | tuple) and len(value) > 0 and all(number.accepts(one) for one in value)
        types = int if self.kind == "int" else (int, float)
        if not isinstance(value, types) or isinstance(value, bool) or not math.isfinite(value):
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
            return closest(value.lower(), self.choices) or self.example
        if self.kind == "bool":
            words = {"yes": True, "on": True, "1": True, "no": False, "off": False, "0": False}
            return words.get(str(value).lower(), self.example)
        if self.kind == "int" and isinstance(value, float) and math.isfinite(value) and self.accepts(int(value)):
            return int(value)
        if self.kind == "str" and value is not None and not isinstance(value, str | list | dict) and not self.choices:
            return f"'\"{text(value)}\"'"
        return self.example


def text(value: Any) -> str:
    """A value as it would be typed."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(text(one) for one in value)}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
