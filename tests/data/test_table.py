"""Tables: what the columns become, and what is said of a table that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest

from modetrain.data.class_weights import balance
from modetrain.data.source import Source
from modetrain.data.sources import table
from modetrain.errors import ConfigError

TRAIN = "größe,city,note,sold\n1.5,Bern,a,yes\n2.5,Chur,b,no\n,Bern,c,no\n4.5,,d,no\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with a name that shells and URLs would trip over."""
    there = tmp_path / "my tables [é]"
    there.mkdir()
    return there


def write(folder, text=TRAIN, name="train.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder)


def test_columns_become_features_of_their_names(folder):
    write(folder, name="test.csv", text="größe,city,note,sold\n3.0,Genf,x,yes\n")
    found = table.load(
        write(folder), target="sold", text=["note"], numeric=["größe"], categorical=["city"], missing="mean"
    )
    train, test = found.splits["train"], found.splits["test"]
    np.testing.assert_allclose(train["größe"], np.float32([1.5, 2.5, 8.5 / 3, 4.5]))
    assert train["city"].tolist() == [1, 2, 1, 0], "an empty one is unknown"
    assert test["city"].tolist() == [0], "Genf is not among those of training"
    assert train["note"].tolist() == ["a", "b", "c", "d"]
    assert (train["sold"].dtype, train["sold"].tolist(), test["sold"].tolist()) == (np.int32, [1, 0, 0, 0], [1])
    assert found.facts == {
        "numeric": ["größe"],
        "categorical": {"city": ["Bern", "Chur"]},
        "target": "sold",
        "classes": 2,
        "class_names": ["no", "yes"],
    }
    alone = table.load(write(folder), numeric=["größe"], missing="mean", standardize=True).splits["train"]
    assert list(alone) == ["größe"]
    assert float(alone["größe"].mean()) == pytest.approx(0, abs=1e-6)


def test_kinds_are_found_and_part_of_a_file_is_held_out(folder):
    lines = "".join(f"{i},{'ab'[i % 2]},{i / 7}\n" for i in range(50))
    file = folder / "all.csv"
    file.write_text("n,kind,y\n" + lines, encoding="utf-8")
    found = table.load(str(file), target="y")
    train, held = found.splits["train"], found.splits["validation"]
    assert (len(train["n"]), len(held["n"])) == (40, 10)
    assert sorted([*train["n"], *held["n"]]) == list(range(50))
    assert found.facts["categorical"] == {"kind": ["a", "b"]}
    assert (train["y"].dtype, "classes" in found.facts) == (np.float32, False)
    again = table.load(str(file), target="y")
    np.testing.assert_array_equal(again.splits["validation"]["n"], held["n"])


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        (TRAIN, {}, r"row 3, column größe is empty\. Fill them in, or type data.missing=mean"),
        (TRAIN, {"target": "price"}, "data.target=price: .* has no such column; it has größe, city, note, sold"),
        (TRAIN, {"numeric": ["größ"]}, r"data.numeric=größ: .* Did you mean 'größe'\?"),
        ("x,y\n1,2\nthree,4\n", {"numeric": ["x"]}, "row 2, column x: 'three' is no number"),
        ("x,y\n1,2\n1,2,3\n", {}, "line 3 has 3 values, and the first line names 2 columns"),
        ("x,y\n", {}, "has no rows"),
        ("", {}, "has no rows"),
    ],
)
def test_a_table_that_cannot_be_read(folder, text, given, message):
    with pytest.raises(ConfigError, match=message):
        table.load(write(folder, text), **given)


def test_a_table_that_is_not_there(folder):
    with pytest.raises(ConfigError, match="there is no such table"):
        table.load(str(folder / "nothing.csv"))
    with pytest.raises(ConfigError, match="it has no train.csv"):
        table.load(str(folder))
    write(folder, "x,y\n1,no\n2,yes\n")
    write(folder, "x,y\n1,perhaps\n", name="test.csv")
    with pytest.raises(ConfigError, match="row 1, column y: 'perhaps' is no class of training"):
        table.load(str(folder), target="y")


def test_rare_classes_weigh_as_much_as_common_ones():
    label = np.array([0, 0, 0, 2], np.int32)
    train = {"x": np.zeros(4), "label": label}
    source = balance(Source(kind="", train=train, evals={"": train}))
    weights = source.train["weight"]
    np.testing.assert_allclose(weights, [4 / 6, 4 / 6, 4 / 6, 2])
    assert weights[label == 0].sum() == pytest.approx(weights[label == 2].sum())
    assert source.eval["weight"].tolist() == [1, 1, 1, 1]
    for wrong, message in (
        ({"x": np.zeros(4)}, "there is no class `label`"),
        ({**train, "weight": np.ones(4)}, "has a feature `weight` already"),
        ([{"label": 1}], "they are not in memory"),
    ):
        with pytest.raises(ConfigError, match=message):
            balance(Source(kind="", train=wrong))
