"""Dates in words and as ISO dates, made up when they are needed: the data of `recipe=seq2seq`."""

from __future__ import annotations

import datetime
from typing import Annotated

import numpy as np

from modetrain import Bounds, Splits

SYMBOLS = "0123456789-"  # numbered from 1; 0 ends a date
LONGEST = len("1984-05-03") + 1  # with the end
_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight"),
    *("nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_FIRST = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_ORDINALS = (
    *_FIRST,
    *("tenth", "eleventh", "twelfth", *(f"{_ONES[day]}th" for day in range(13, 20)), "twentieth"),
    *(f"twenty {day}" for day in _FIRST),
    *("thirtieth", "thirty first"),
)
_FORMATS = (  # the longest of them are rare
    *("the {day} of {month} {year}", "{day} {month} {year}", "{month} the {day} {year}", "{month} {day} {year}") * 24,
    *("{month} {year}", "in {month} of {year}", "{year}", "the year {year}") * 6,
    *("{weekday} the {day} of {month} {year}", "on {weekday} {month} the {day} in the year {year}"),
)


def dates(*, pairs: Annotated[int, Bounds(at_least=10)] = 20000, seed: int = 0) -> Splits:
    """Dates of 1900 to 2099 in words and as ISO dates; a twentieth of the pairs validates, of dates that are not trained on.

    Where only a year or a month is named, so it is in the ISO date: `1984`, `1984-05`.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, str] = {}
    held: set[str] = set()
    while len(found) < pairs:
        date = datetime.date(1900, 1, 1) + datetime.timedelta(days=int(rng.integers(73049)))
        form = _FORMATS[rng.integers(len(_FORMATS))]
        named = {
            "day": _ORDINALS[date.day - 1],
            "month": f"{date:%B}",
            "weekday": f"{date:%A}",
            "year": _year(date.year, rng),
        }
        iso = date.isoformat()[: 10 if "{day}" in form else 7 if "{month}" in form else 4]
        if len(found) < pairs // 20:
            held.add(iso)
        elif iso in held:
            continue
        found[form.format(**named).lower()] = iso
    vocabulary = sorted({word for text in found for word in text.split()})
    numbers = {word: number for number, word in enumerate(vocabulary, start=1)}
    words = [np.array([numbers[word] for word in text.split()], np.int32) for text in found]
    symbols = np.array(
        [[SYMBOLS.index(c) + 1 for c in one] + [0] * (LONGEST - len(one)) for one in found.values()], np.int32
    )
    few = pairs // 20
    train, validation = ({"words": words[part], "date": symbols[part]} for part in (slice(few, None), slice(few)))
    return Splits({"train": train, "validation": validation}, vocabulary=vocabulary)


def _year(year: int, rng: np.random.Generator) -> str:
    century, rest = divmod(year, 100)
    tens = f"{_TENS[rest // 10]} {_ONES[rest % 10]}".removesuffix(" zero") if rest >= 20 else _ONES[rest]
    if year // 10 == 200 or (century == 20 and rng.random() < 0.3):
        return "two thousand" + (f" and {tens}" if rest else "")
    first = _TENS[2] if century == 20 else _ONES[century]
    return f"{first} hundred" if rest == 0 else f"{first} oh {tens}" if rest < 10 else f"{first} {tens}"
