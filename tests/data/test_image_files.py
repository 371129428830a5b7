"""Folders of image files: what is read of them, in which order, and what is said of a file that is damaged."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import modetrain
from modetrain.data.loader import BatchLoader
from modetrain.data.selection import choose
from modetrain.data.sources.images import images
from modetrain.errors import ConfigError
from modetrain.settings import DataSettings


def pixels(number: int, *, size=(6, 8), channels=3) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, channels), dtype=np.uint8)


def save(file, number: int = 0, **shape) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    encode = functools.partial(tf.io.encode_jpeg, quality=95) if file.suffix.lower() == ".jpg" else tf.io.encode_png
    file.write_bytes(encode(pixels(number, **shape)).numpy())


@pytest.fixture
def photos(tmp_path):
    """Two splits: 6 cats and 3 dogs to train on, a bird and a dog to evaluate, in a folder whose name has no ASCII."""
    folder = tmp_path / "Fotos [größer]"
    for number in range(6):
        save(folder / f"train/cat/{number}.png", number)
    for number in range(3):
        save(folder / f"train/dog (älter)/{number}.PNG", 10 + number)
    save(folder / "eval/bird/0.png", 20)
    save(folder / "eval/dog (älter)/0.png", 21)
    (folder / "train/cat/.hidden.png").write_bytes(b"x")
    return folder


def source(folder, **given):
    settings = DataSettings(name="images", **{"eval_split": "auto", **given})
    return choose(images(str(folder), on_error=settings.on_error), settings, where="modetrain.images")


def test_classes_are_the_folders_of_all_splits_and_come_in_turn(photos, caplog):
    (photos / "train/cat/notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING):
        found = source(photos)
    assert (found.facts["classes"], found.facts["class_names"]) == (3, ("bird", "cat", "dog (älter)"))
    assert found.facts["image_shape"] == (6, 8, 3)
    train = found.train.first(99)
    assert train["label"].tolist() == [1, 2, 1, 1, 2, 1, 1, 2, 1]
    np.testing.assert_array_equal(train["image"][[0, 2, 3]], [pixels(0), pixels(1), pixels(2)])
    np.testing.assert_array_equal(train["image"][[1, 4, 7]], [pixels(10), pixels(11), pixels(12)])
    assert found.evals[""].first(9)["label"].tolist() == [0, 2]
    (left_out,) = [line for line in caplog.messages if "left out" in line]
    assert "notes.txt" in left_out
    assert any("no image of bird: training cannot teach them" in line for line in caplog.messages)


def test_a_folder_without_splits_is_cut(photos):
    cut = source(photos / "train", train_split="train[:6]", eval_split="train[6:]")
    whole = source(photos / "train").train.first(9)
    for split, part in ((cut.train, slice(6)), (cut.evals[""], slice(6, 9))):
        for name, value in split.first(9).items():
            np.testing.assert_array_equal(value, whole[name][part])


@pytest.mark.parametrize("size", [(3, 5), (2, 2), (12, 16)])
def test_images_are_resized_and_masks_keep_their_classes(tmp_path, size):
    """Between half the size and more they are interpolated, below that averaged; a JPEG is decoded at half its size before."""
    lines = ["file,mask,age,note,label"]
    for number in range(3):
        kind = ("jpg", "png")[number % 2]
        save(tmp_path / f"{number}.{kind}", number, size=(6, 8 + number))
        save(tmp_path / f"masks/{number}.png", 5 + number, size=(6, 8 + number), channels=1)
        lines.append(f"{number}.{kind},masks/{number}.png,{number}.5,näh,{'ba'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    splits = images(str(tmp_path), image_size=size)
    found = splits.splits["train"].first(3)
    assert splits.facts == {"classes": 2, "class_names": ("a", "b")}
    assert (found["label"].tolist(), found["age"].tolist(), found["note"][0].decode()) == (
        [1, 0, 1],
        [0.5, 1.5, 2.5],
        "näh",
    )
    assert found["mask"].shape == (3, *size, 1)
    for number in range(3):
        if number % 2:
            image = pixels(number, size=(6, 8 + number))
        else:
            ratio = 2 if 2 * size[0] <= 6 and 8 + number >= 2 * size[1] else 1
            image = tf.io.decode_jpeg((tmp_path / f"{number}.jpg").read_bytes(), ratio=ratio)
        method = "area" if any(a > 2 * b for a, b in zip(image.shape[:2], size, strict=True)) else "bilinear"
        np.testing.assert_array_equal(found["image"][number], np.round(tf.image.resize(image, size, method)))
        mask = tf.image.resize(pixels(5 + number, size=(6, 8 + number), channels=1), size, "nearest")
        np.testing.assert_array_equal(found["mask"][number], mask)


@pytest.fixture
def damaged(tmp_path):
    """80 images, and 18 is half a file: the look at the first ones does not meet it."""
    for number in range(80):
        save(tmp_path / f"train/cat/{number:02}.png", number)
    file = tmp_path / "train/cat/18.png"
    file.write_bytes(file.read_bytes()[:150])
    return tmp_path


@pytest.mark.parametrize("debug", [False, True])
def test_a_damaged_file_ends_the_run_by_name_and_is_not_tried_again(damaged, make_data, debug):
    data = make_data(source=source(damaged), batch_size=16, debug=debug)
    waits: list[float] = []
    with pytest.raises(
        ConfigError, match=r"^the split train of .*: example 18 cannot be read: .*18.png is damaged, or no image"
    ):
        [BatchLoader(data, 1, sleep=waits.append).block(step) for step in range(5)]
    assert not waits


def test_the_next_one_takes_the_place_of_a_damaged_file(damaged, make_data, caplog):
    with caplog.at_level(logging.WARNING):
        found = source(damaged, on_error="skip", train_split="train[:19]", eval_split="train[19:]")
        rows = found.train.gather(tf.constant([18, 3], tf.int64))["image"]
    np.testing.assert_array_equal(rows, [pixels(0), pixels(3)])  # 19 is evaluated on
    np.testing.assert_array_equal(found.train.gather(tf.constant([18], tf.int64))["image"][0], pixels(0))
    assert [line for line in caplog.messages if "is skipped" in line] == [
        f"the split train of {damaged}: example 18 is skipped: {damaged}/train/cat/18.png is damaged, or no image (Invalid PNG "
        "data, size 150)"
    ]
    assert len(found.skipped()) == 1
    whole = source(damaged, on_error="skip")
    np.testing.assert_array_equal(whole.train.gather(tf.constant([18], tf.int64))["image"][0], pixels(19))
    one, other = (make_data(source=source(damaged, on_error="skip"), batch_size=16) for _ in range(2))
    walked = [block.arrays["image"] for block, _ in zip(one.train_blocks(0, 1), range(12))]
    for step in (11, 3):
        np.testing.assert_array_equal(tf.reshape(walked[step], [16, 6, 8, 3]), other.batch(step)["image"])


def test_where_nothing_can_be_read_it_ends(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"no image")
    with pytest.raises(ConfigError, match="3 examples one after the other, from example 0 on, cannot be read"):
        images(str(tmp_path), on_error="skip")


def test_the_lines_of_the_docs_make_a_folder(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/your-data.md").read_text()
    (lines,) = [block.split("```")[0] for block in page.split("```python\n") if "encode_jpeg" in block]
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    found = images("photos", image_size=[28, 28])
    assert found.facts["class_names"] == ("across", "down")
    assert found.splits["train"].examples == 400


def _write(folder, **files):
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


WRONG = {
    "does not exist. Type data.path=FOLDER": lambda f: f.rmdir(),
    "no image in it; it holds nothing": lambda f: None,
    "the class dog has no image in any split. Remove its folder": lambda f: (
        save(f / "cat/1.png"),
        (f / "dog").mkdir(),
    ),
    "2.png has 1 channels and .*1.png has 3. Type data.channels=3": lambda f: (
        save(f / "a/1.png"),
        save(f / "a/2.png", channels=1),
    ),
    r"2.png is 6x9 and .*1.png is 6x8. Type 'data.image_size=\[6,8\]'": lambda f: (
        save(f / "a/1.png"),
        save(f / "a/2.png", size=(6, 9)),
    ),
    "the split test holds no image": lambda f: (save(f / "train/a/1.png"), (f / "test/a").mkdir(parents=True)),
    "line 3 names '2.png', and there is no such file": lambda f: (
        save(f / "1.png"),
        _write(f, labels__csv="file,x\n1.png,1\n2.png,2\n"),
    ),
    "line 2 has 3 cells, and the first line has 2": lambda f: (
        save(f / "1.png"),
        _write(f, labels__csv="file,x\n1.png,1,2\n"),
    ),
    "the split train has label, and test has age": lambda f: (
        save(f / "train/a/1.png"),
        save(f / "test/1.png"),
        _write(f / "test", labels__csv="file,age\n1.png,3\n"),
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_said(tmp_path, message):
    folder = tmp_path / "fotos"
    folder.mkdir()
    WRONG[message](folder)
    with pytest.raises(ConfigError, match=message):
        images(str(folder))


def test_a_run_by_name_keeps_the_classes_and_what_was_skipped(damaged, monkeypatch):
    for number in range(4):
        save(damaged / f"train/dog/{number}.png", number)
        save(damaged / f"test/dog/{number}.png", number)
    monkeypatch.chdir(damaged)
    modetrain.run(
        *(
            "recipe=mnist",
            "model=mlp",
            "data=images",
            f"data.path={damaged}",
            "data.on_error=skip",
            "data.batch_size=28",
        ),
        *("steps=3", "mode=graph", "run_dir=one"),
    )
    record = json.loads((damaged / "one/run.json").read_text())
    assert (record["data"]["source"], record["data"]["class_names"]) == ("images", ["cat", "dog"])
    assert record["data"]["skipped"]["count"] == 1
    assert "18.png" in record["data"]["skipped"]["examples"][0]
