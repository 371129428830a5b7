"""What a parameter takes is read from its annotation once its module is imported; what that does not settle is right."""

from __future__ import annotations

import dataclasses
from typing import Annotated, get_args

import pytest

from modetrain import Bounds, Length
from modetrain.config.targets import parameters

INF = float("inf")

# annotation (and default), values that are good, values that are not
SETTLED = [
    ("int", [0, -3, 10**12], [1.0, 1.5, "1", True, None, [1]]),
    ("float", [0, 1.5, -2, INF], ["1", False, None, [1.0]]),
    ("bool", [True, False], [0, 1, "yes", None]),
    ("str", ["x", ""], [1, None, True, ["x"]]),
    ("'int'", [1], ["x"]),
    ("int | None", [1, None], ["x", 1.5]),
    ("None | float", [1, None], ["x"]),
    ("Optional[int]", [1, None], ["x"]),
    ("typing.Union[int, None]", [1, None], ["x"]),
    ("Union[int, float]", [1, 1.5], ["x", None]),
    ("int = None", [1, None], ["x"]),
    ("Literal['mean', 'max']", ["mean", "max"], ["men", 1, None]),
    ("Literal['auto'] | int", [3, "auto"], ["aut", 1.5]),
    ("Sequence[int]", [[], [1, 2]], [1, "ab", [1.5], ["a"], [None], None]),
    ("collections.abc.Sequence[float]", [[1, 2.5]], [["a"]]),
    ("list[int]", [[1]], [["a"]]),
    ("tuple[int, ...]", [[1, 2, 3]], [["a"], 1]),
    ("list[list[int]]", [[[1], []]], [[1], [["a"]]]),
    ("list", [[1, "a"]], [1, "a", None]),
    ("list[Thing]", [[1, "a"]], [1]),
    ("Annotated[int, Bounds(at_least=0)]", [0, 5], [-1, "x"]),
    ("Annotated[float, Bounds(above=0, below=1)]", [0.5], [0, 1, -0.5, 1.5]),
    ("Annotated[float, Bounds(at_least=-1, at_most=1)]", [-1, 1], [-2, 2]),
    ("Annotated[float | None, modetrain.Bounds(above=0)] = None", [1, None], [0]),
    ("Annotated[int, 'what it is', Bounds(at_least=1)]", [1], [0]),
    ("Annotated[int, Own(at_least=9)]", [0], ["x"]),
    ("float = compute()", [1], ["x"]),
    ("Annotated[Sequence[int], Bounds(at_least=1), Length(at_least=2)]", [[1, 1]], [[1], [0, 1], []]),
    ("Sequence[Annotated[int, Bounds(at_least=1)]]", [[1]], [[0]]),
    ("Share", [0, 0.5, 1], [-1, 2, "x"]),
    ("Share | None", [0.5, None], [2]),
    ("Imported", [1], [0]),
    ("int | str", [1, "x", ""], [1.5, None, [1]]),
    ("int | str = 'auto'", [1, "auto"], [1.5]),
    ("tuple[int, int]", [[1, 2]], [[1], [1, "a"], 1]),
    ("list[int] | int", [1, [1]], ["x", ["x"]]),
    ("Literal[1, 2]", [1, 2], [3, "x", True]),
]
UNSETTLED = [
    *(
        "",
        "Any",
        "object",
        "Path",
        "Thing",
        "np.float32",
        "Callable[[int], int]",
        "'not an annotation'",
    ),
    *("Itself", "tf.bool", "Annotated[Thing, Bounds(at_least=1)]", "int = 'auto'", "Unknown"),
]
ANY = [1, 1.5, "x", None, True, [1], ["x"]]

MODULE = """
from __future__ import annotations
import collections.abc, typing
import numpy as np
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

import modetrain
from modetrain import Bounds, Length

Share = Annotated[float, Bounds(at_least=0, at_most=1)]
Number = int
Imported = Annotated[Number, Bounds(at_least=1)]
Itself = "Itself"


class Thing: ...


class Own:
    def __init__(self, at_least): ...


def compute(): return 1.0


def make(value: ANNOTATION): ...
"""


@pytest.fixture
def value_of():
    """What the parameter `value` of a function takes, by its annotation and default."""

    def read(annotation: str):
        module: dict = {}
        exec(MODULE.replace(": ANNOTATION", f": {annotation}" if annotation else ""), module)
        return parameters(module["make"])[0]["value"]

    return read


@pytest.mark.parametrize(("annotation", "good", "wrong"), SETTLED, ids=[case[0] for case in SETTLED])
def test_what_an_annotation_settles(annotation, good, wrong, value_of):
    value = value_of(annotation)
    assert [one for one in good if not value.accepts(one)] == []
    assert [one for one in wrong if value.accepts(one)] == []
    assert value.accepts(value.example), "what is proposed is good"


@pytest.mark.parametrize("annotation", UNSETTLED)
def test_what_it_does_not_settle_is_right(annotation, value_of):
    value = value_of(annotation)
    assert value is None or all(value.accepts(one) for one in ANY)


def test_an_annotation_is_read_where_it_stands(tmp_path, monkeypatch):
    (tmp_path / "annotated_base.py").write_text(
        "from __future__ import annotations\nSize = int\nclass Base:\n    def __init__(self, size: Size): ...\n"
    )
    (tmp_path / "annotated_mine.py").write_text("from annotated_base import Base\nSize = str\nclass Mine(Base): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    from annotated_mine import Mine

    size = parameters(Mine)[0]["size"]
    assert size.accepts(3)
    assert not size.accepts("3")


def test_the_fields_of_a_dataclass_are_arguments_too():
    @dataclasses.dataclass
    class Base:
        every: int = 3
        size: int = 3

    @dataclasses.dataclass
    class Mine(Base):
        size: object = 1.5
        name: str | None = None

    takes, is_open = parameters(Mine)
    assert (list(takes), is_open) == (["every", "size", "name"], False)
    assert not takes["every"].accepts("x")
    assert takes["size"] is None or takes["size"].accepts("x")
    assert takes["name"].accepts(None)


def test_what_takes_anything_else_is_open():
    assert parameters(lambda **anything: None) == ({}, True)
    assert parameters(lambda one, *more: None) == ({"one": None}, False)


def test_markers_are_values_at_run_time_too():
    assert get_args(Annotated[list[int], Bounds(at_least=1), Length(at_least=2)])[1:] == (
        *(Bounds(at_least=1), Length(at_least=2)),
    )
    with pytest.raises(TypeError):
        Bounds(least=1)
