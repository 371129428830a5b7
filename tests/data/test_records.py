"""TFRecord files of any features: what is read of them, how it is found again, and what is said of damaged ones."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import tensorflow as tf

from modetrain.data import record_index
from modetrain.data.dataset import Data
from modetrain.data.selection import choose
from modetrain.data.sources.record_folder import records
from modetrain.errors import ConfigError
from modetrain.settings import DataSettings


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def example(number: int, **other) -> bytes:
    """An image, a label, some tokens, boxes of 4 numbers and a text."""
    given = {
        "image": [tf.io.encode_png(image(number)).numpy()],
        "label": [number % 3],
        "tokens": list(range(1, 1 + number % 4)),
        "box": [float(number)] * 4 * (number % 3),
        "text": [f"nr {number}".encode()],
        **other,
    }
    feature = {}
    for name, values in given.items():
        if any(isinstance(value, bytes) for value in values):
            feature[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        elif name == "box":
            feature[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write(file, contents):
    with tf.io.TFRecordWriter(str(file)) as writer:
        for content in contents:
            writer.write(content)


FEATURES = {"image": "image", "label": "int32", "tokens": "int64[]", "box": "float32[?,4]", "text": "string"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "Daten [größer]"
    folder.mkdir()
    write(folder / "train-00000-of-00002.tfrecord", [example(i) for i in range(7)])
    write(folder / "train-00001-of-00002.tfrecord", [example(i) for i in range(7, 12)])
    write(folder / "test.tfrecord", [example(i) for i in range(20, 24)])
    return folder


def source(folder, features=FEATURES, **given):
    settings = DataSettings(name="records", **{"eval_split": "auto", "batch_size": 4, "eval_batch_size": 4, **given})
    return choose(
        records(str(folder), features, on_error=settings.on_error), settings, where="modetrain.records"
    ), settings


def same(one, other):
    assert sorted(one) == sorted(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_features_are_read_padded_and_found_again(folder):
    found, settings = source(folder)
    assert (found.train.examples, found.evals[""].examples) == (12, 4)
    assert found.train.shapes["box"] == (None, 4)
    rows = found.train.gather(tf.constant([8, 3, 0], tf.int64))
    np.testing.assert_array_equal(rows["image"], [image(8), image(3), image(0)])
    assert rows["label"].numpy().tolist() == [2, 0, 0]
    assert rows["label"].dtype == tf.int32
    assert rows["tokens"].numpy().tolist() == [[0, 0, 0], [1, 2, 3], [0, 0, 0]]
    assert rows["tokens_length"].numpy().tolist() == [0, 3, 0]
    assert rows["box"].numpy().tolist() == [[[8] * 4] * 2, [[0] * 4] * 2, [[0] * 4] * 2]
    assert rows["text"].numpy().tolist() == [b"nr 8", b"nr 3", b"nr 0"]
    assert source(folder, features=None)[0].train.shapes == {
        "box": (None,),  # how many belong together cannot be found
        "box_length": (),
        "image": (5, 4, 3),
        "label": (),
        "text": (),
        "tokens": (None,),
        "tokens_length": (),
    }
    settings = DataSettings(name="records", eval_split="auto", batch_size=4, eval_batch_size=4, pad=8)
    one, other = (Data(source(folder)[0], settings, seed=3) for _ in range(2))
    begin = time.perf_counter()
    last = one.batch(1_000_000)
    assert time.perf_counter() - begin < 1
    same(last, other.batch(1_000_000))
    assert last["tokens"].shape == (4, 8)


def test_the_index_is_kept_until_a_file_changes(folder, monkeypatch):
    scans = []
    scan = record_index.scan
    monkeypatch.setattr(record_index, "scan", lambda file: scans.append(file.name) or scan(file))
    source(folder)
    assert len(scans) == 3
    source(folder)
    assert len(scans) == 3
    write(folder / "test.tfrecord", [example(i) for i in range(20, 25)])
    assert source(folder)[0].evals[""].examples == 5
    assert scans[3:] == ["test.tfrecord"]


def test_a_damaged_record_is_named(folder):
    file = folder / "train-00001-of-00002.tfrecord"
    content = bytearray(file.read_bytes())
    index = record_index.RecordIndex.of([file])
    assert all(index.checksum_fits(row) for row in range(5))
    start, length = int(index._starts[4]), int(index._lengths[4])
    content[start : start + length] = b"\xff" * length
    file.write_bytes(content)
    found, _ = source(folder)
    with pytest.raises(ConfigError, match="example 11 .*record 4 of .*train-00001.* checksum does not fit"):
        found.train._reader(11)
    with pytest.raises(Exception, match="record 4 of "):
        found.train.gather(tf.constant([1, 11], tf.int64))
    skipping, _ = source(folder, on_error="skip")
    assert skipping.train.gather(tf.constant([1, 11], tf.int64))["text"].numpy().tolist() == [b"nr 1", b"nr 0"]
    assert "record 4" in skipping.skipped()[0]
    content[int(index._starts[2]) - 12] ^= 1  # the length of record 2
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="train-00001.*: record 2 .*header"):
        source(folder)
    content[int(index._starts[2]) - 12] ^= 1
    content[int(index._starts[2]) - 1] ^= 1  # the checksum of the length of record 2
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="train-00001.*: record 2 .*header"):
        source(folder)
    os.truncate(file, start + 3)
    with pytest.raises(ConfigError, match="train-00001"):
        source(folder)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"lable": "int64"}, "no feature `lable`.*Did you mean 'label'"),
        ({"label": "float32"}, "`label` is given as float32.*has it as int64"),
        ({"label": "int46"}, "`label` is 'int46'; expected"),
        ({"box": "float32[2,?]"}, "only the first size may be open"),
    ],
)
def test_other_features_are_refused(folder, features, expected):
    with pytest.raises(ConfigError, match=expected):
        source(folder, features)


def test_what_holds_no_records_is_refused(folder):
    (folder / "validation.tfrecord").write_bytes(b"")
    with pytest.raises(ConfigError, match="the split validation holds no record"):
        source(folder)
    (folder / "validation.tfrecord").write_bytes(b"\x1f\x8b" + b"x" * 50)
    with pytest.raises(ConfigError, match="gunzip"):
        source(folder)
    with pytest.raises(ConfigError, match="does not exist"):
        source(folder / "none")
    write(folder / "validation.tfrecord", [*[example(2)] * 8, example(0, box=[1.0] * 6)])
    odd = records(str(folder), FEATURES).splits["validation"]
    with pytest.raises(Exception, match="record 8 of "):
        odd.gather(tf.constant([0, 8], tf.int64))
    write(folder / "validation.tfrecord", [example(0), example(1, image=[tf.io.encode_png(image(0)[:3]).numpy()])])
    with pytest.raises(ConfigError, match="record 1 of .*images differ in size.*data.image_size="):
        source(folder)


def test_all_features_of_tfds_are_read(tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "text": tfds.features.Text(),
        "kind": tfds.features.ClassLabel(names=["a", "b"]),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "objects": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature(), "what": np.int64}),
        "video": tfds.features.Video(shape=(None, 4, 4, 3)),
        "audio": tfds.features.Audio(),
        "deep": tfds.features.Sequence(tfds.features.Sequence(np.int64)),
        "nested": {"x": tfds.features.Tensor(shape=(2,), dtype=np.float32), "y": tfds.features.Scalar(np.bool_)},
    }

    def made(i):
        return {
            "text": f"nr {i}",
            "kind": i % 2,
            "image": np.full((3 + i, 5, 3), i, np.uint8),
            "objects": [{"bbox": tfds.features.BBox(0.0, 0.0, 0.5, 1.0), "what": 1 + j} for j in range(i % 3)],
            "video": np.full((1 + i % 2, 4, 4, 3), i, np.uint8),
            "audio": np.arange(i + 1),
            "deep": [[1, 2], [3]][: i % 3],
            "nested": {"x": [i, i], "y": i % 2 == 0},
        }

    class ModetrainMany(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {"train": ((i, made(i)) for i in range(6)), "check": ((i, made(i)) for i in range(3))}

        def _generate_examples(self):
            raise NotImplementedError

    builder = ModetrainMany(data_dir=tmp_path)
    builder.download_and_prepare()
    folder = builder.data_dir
    splits = records(str(folder), image_size=(4, 4))
    assert sorted(splits.splits) == ["check", "train"]
    assert splits.facts == {"classes": 2, "class_names": ("a", "b")}
    train = splits.splits["train"]
    found = {n: v.numpy() for n, v in train.gather(tf.range(6, dtype=tf.int64)).items()}
    for row, expected in enumerate(builder.as_dataset(split="train").as_numpy_iterator()):
        for name in ("text", "kind"):
            assert found[name][row] == expected[name]
        for name in ("x", "y"):
            np.testing.assert_array_equal(found[f"nested/{name}"][row], expected["nested"][name])
        for name, value in (("audio", expected["audio"]), ("video", expected["video"]), *expected["objects"].items()):
            name = f"objects/{name}" if name in expected["objects"] else name
            length = found[f"{name}_length"][row]
            assert length == len(value)
            np.testing.assert_array_equal(found[name][row][:length], value)
            assert not found[name][row][length:].any()
        deep = expected["deep"].to_list() if hasattr(expected["deep"], "to_list") else expected["deep"]
        assert [[n for n in line if n] for line in found["deep"][row].tolist() if any(line)] == [
            list(one) for one in deep
        ]
        assert found["image"][row].shape == (4, 4, 3)
        assert (found["image"][row] == expected["image"][0, 0, 0]).all()
