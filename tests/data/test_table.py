"""Tables: what the columns become, and what is said of a table that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest

from modetrain.data.class_weights import balance
from modetrain.data.selection import select
from modetrain.data.source import Source
from modetrain.data.sources import table
from modetrain.data.split import ArraySplit
from modetrain.errors import ConfigError

TRAIN = "größe,city,note,sold\n1.5,Bern,a,yes\n2.5,Chur,b,no\n,Bern,c,no\n4.5,,d,no\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with a name that shells and URLs would trip over."""
    there = tmp_path / "my tables [é]"
    there.mkdir()
    return there


def write(folder, text=TRAIN, name="train.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
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


def test_what_a_target_is_and_where_examples_are_weighed(folder):
    lines = "".join(f"{i % 3},{1000 + i},{i / 2}\n" for i in range(120))
    path = write(folder, "grade,income,importance\n" + lines)
    one = table.load(path, target="grade", weight="importance")
    assert (one.facts["class_names"], one.facts["numeric"]) == (["0", "1", "2"], ["income"])
    assert one.splits["train"]["weight"].tolist() == [i / 2 for i in range(120)]
    assert "classes" not in table.load(path, target="income").facts, "120 whole numbers are no classes"
    assert "classes" not in table.load(path, target="grade", numeric=["income", "grade"]).facts
    assert table.load(path, target="income", categorical=["grade", "income"]).facts["classes"] == 120
    other = table.load(str(folder / "train.csv"), target="grade", eval_path=str(folder / "train.csv"))
    assert [len(split["grade"]) for split in other.splits.values()] == [120, 120]


def test_parquet_is_read_like_csv(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"age": [30, None, 50], "city": ["Bern", None, "Chur"], "big": [1.5, 2.5, 3.5], "sold": [1, 0, 1]}
    parquet.write_table(pyarrow.table(columns), folder / "train.parquet")
    write(folder, "age,city,big,sold\n30,Bern,1.5,1\nNA,,2.5,0\n50,Chur,3.5,1\n")
    csv, columnar = (
        table.load(str(folder / f"train.{end}"), target="sold", missing="zero", held_out=0)
        for end in ("csv", "parquet")
    )
    assert csv.facts == columnar.facts
    for name, column in csv.splits["train"].items():
        np.testing.assert_array_equal(columnar.splits["train"][name], column)
    assert columnar.splits["train"]["age"].tolist() == [30, 0, 50]
    assert columnar.splits["train"]["city"].tolist() == [1, 0, 2]
    (folder / "bad.parquet").write_bytes(b"PAR1 not a table")
    with pytest.raises(ConfigError, match="bad.parquet cannot be read as Parquet"):
        table.load(str(folder / "bad.parquet"))


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
        ("x,x\n1,2\n", {}, "names the column x twice"),
        ("x,y\n,2\nNA,3\n", {"numeric": ["x"]}, "the column x is empty. Leave it out"),
        (b"x,y\n1,\xff\n", {}, "0xff is no UTF-8. Save it as UTF-8"),
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
    weights = source.train.first(9)["weight"]
    np.testing.assert_allclose(weights, [4 / 6, 4 / 6, 4 / 6, 2])
    assert weights[label == 0].sum() == pytest.approx(weights[label == 2].sum())
    assert source.eval.first(9)["weight"].tolist() == [1, 1, 1, 1]
    part = select({"train": ArraySplit(train)}, "train_split", "train[2:]", "the data")
    assert balance(Source(kind="", train=part)).train.first(9)["weight"].tolist() == [1, 1]
    for wrong, message in (
        ({"x": np.zeros(4)}, "there is no class `label`"),
        ({**train, "weight": np.ones(4)}, "has a feature `weight` already"),
        ([{"label": 1}], "they are not in memory"),
        ({"label": np.array([0, -1])}, "has the class -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            balance(Source(kind="", train=wrong))
