"""What a parameter takes is read from the text of its annotation; what the text does not settle is right."""

from __future__ import annotations

import pytest

from modetrain.config.signatures import SourceText

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
]
UNSETTLED = [
    *("", "Any", "object", "dict[str, int]", "Path", "Thing", "np.float32", "int | str", "tuple[int, int]"),
    *("Callable[[int], int]", "Literal[1, 2]", "list[int] | int", "'not an annotation'", "Twice", "Itself", "tf.bool"),
    *("Annotated[Thing, Bounds(at_least=1)]", "int = 'auto'"),
]
ANY = [1, 1.5, "x", None, True, [1], ["x"]]

MODULE = """
import collections.abc, typing
import modetrain
from collections.abc import Sequence
from typing import Annotated, Literal, Optional, Union

from elsewhere import Thing
from modetrain import Bounds, Length
from recipes.kinds import Count as Imported

Share = Annotated[float, Bounds(at_least=0, at_most=1)]
Twice = int
Twice = str
Itself = Itself


def make(value: ANNOTATION): ...
"""

KINDS = """
from typing import Annotated
from modetrain import Bounds

Number = int
Count = Annotated[Number, Bounds(at_least=1)]
"""


@pytest.fixture
def key_of(tmp_path):
    """What the parameter `value` of a function takes, by its annotation and default."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/kinds.py").write_text(KINDS)

    def read(annotation: str, module: str = MODULE):
        text = module.replace(": ANNOTATION", f": {annotation}" if annotation else "")
        (tmp_path / "recipes/mine.py").write_text(text)
        sources = SourceText(tmp_path)
        return sources.signature(*sources.definition("recipes.mine", "make")).keys.get("value")

    return read


@pytest.mark.parametrize(("annotation", "good", "wrong"), SETTLED, ids=[case[0] for case in SETTLED])
def test_what_an_annotation_settles(annotation, good, wrong, key_of):
    key = key_of(annotation)
    assert [value for value in good if not key.accepts(value)] == []
    assert [value for value in wrong if key.accepts(value)] == []
    assert key.accepts(key.example), "what is proposed is good"


@pytest.mark.parametrize("annotation", UNSETTLED)
def test_what_it_does_not_settle_is_right(annotation, key_of):
    key = key_of(annotation)
    assert key is None or all(key.accepts(value) for value in ANY)


def test_markers_of_the_same_name_that_are_not_ours_say_nothing(key_of):
    module = MODULE.replace("from modetrain import Bounds, Length", "from elsewhere import Bounds, Length")
    assert key_of("Annotated[int, Bounds(at_least=9)]", module).accepts(1)


def test_an_annotation_is_read_where_it_stands(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/base.py").write_text("Size = int\nclass Base:\n    def __init__(self, size: Size): ...\n")
    (tmp_path / "recipes/mine.py").write_text("from recipes.base import Base\nSize = str\nclass Mine(Base): ...\n")
    sources = SourceText(tmp_path)
    key = sources.signature(*sources.definition("recipes.mine", "Mine")).keys["size"]
    assert key.kind == "int"


def test_the_fields_of_a_dataclass_are_arguments_too(tmp_path):
    (tmp_path / "thing.py").write_text(
        "import dataclasses\n\n@dataclasses.dataclass\nclass Base:\n    every: int = 3\n    size: int = 3\n\n"
        "@dataclasses.dataclass\nclass Mine(Base):\n    size: object = 1.5\n    name: str | None = None\n"
    )
    sources = SourceText(tmp_path)
    keys = sources.signature(*sources.definition("thing", "Mine")).keys
    assert {name: (key.kind, key.optional) for name, key in keys.items()} == {
        "every": ("int", False),
        "name": ("str", True),
    }


def test_markers_are_values_at_run_time_too():
    from typing import Annotated, get_args

    from modetrain import Bounds, Length

    assert get_args(Annotated[list[int], Bounds(at_least=1), Length(at_least=2)])[1:] == (
        *(Bounds(at_least=1), Length(at_least=2)),
    )
    with pytest.raises(TypeError):
        Bounds(least=1)
