"""Sources: which data is used and why, that it is read exactly, and that being offline or wrong costs seconds.

Real files, real TFDS, real sockets on this machine; nothing here needs a network, and nothing uses one if there is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from modetrain.app import check
from modetrain.config import overrides
from modetrain.data.sources import arrays, bundled, messages, names, network
from modetrain.data.sources import load as sources
from modetrain.errors import ConfigError
from modetrain.files import paths
from modetrain.settings import DataSettings

ROOT = Path(__file__).parents[2]


class Lines(logging.Handler):
    """Keeps the lines that the library logs."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def load(**given):
    """The source, and the lines that loading it logs."""
    log, kept = logging.getLogger("modetrain"), Lines()
    level = log.level
    log.addHandler(kept)
    log.setLevel(logging.INFO)
    try:
        return sources.load(DataSettings(**{"name": "mnist", **given})), kept.lines
    finally:
        log.removeHandler(kept)
        log.setLevel(level)


def refused(**given) -> str:
    """The message of the ConfigError that loading must raise."""
    with pytest.raises(ConfigError) as caught:
        load(**given)
    return str(caught.value)


@functools.cache
def digits(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    with np.load(bundled.SAMPLE) as sample:
        return sample["train_image"][:count], sample["train_label"][:count].astype(np.int64)


def same(one, other):
    assert sorted(one) == sorted(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


# --- the bundled sample ----------------------------------------------------------------------------------------------


def test_the_sample_is_shuffled_stratified_and_apart():
    source, _ = load(source="bundled")
    assert source.kind == "bundled"
    assert source.classes == 10
    assert source.train["image"].shape == (4000, 28, 28, 1)
    assert source.eval["image"].shape == (1000, 28, 28, 1)
    for split, per_class in ((source.train, 400), (source.eval, 100)):
        assert split["image"].dtype == np.uint8
        assert split["label"].dtype == np.int32
        assert np.bincount(split["label"]).tolist() == [per_class] * 10
        assert set(split["label"][:100]) == set(range(10)), "a sorted sample cannot be cut anywhere"
    seen = {image.tobytes() for split in (source.train, source.eval) for image in split["image"]}
    assert len(seen) == 5000, "no digit is both trained on and tested on"


def test_the_sample_is_what_its_readme_says():
    with np.load(bundled.SAMPLE) as sample:
        digest = hashlib.sha256(b"".join(sample[name].tobytes() for name in sorted(sample.files))).hexdigest()
    assert digest == "83d59a604df00522d215a0a873e9663cd4fb62d19d045211869d654fac2d5198", (
        "the bundled sample changed, and with it every result on it"
    )


def test_labels_go_with_their_images():
    source, _ = load(source="bundled")
    train, test = (split["image"].reshape(len(split["image"]), -1) / 255 for split in (source.train, source.eval))
    centres = np.stack([train[source.train["label"] == digit].mean(0) for digit in range(10)])
    nearest = np.linalg.norm(test[:, None] - centres, axis=2).argmin(1)
    assert (nearest == source.eval["label"]).mean() > 0.75


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("test", slice(None)),
        ("test[:10%]", slice(0, 100)),
        ("test[90%:]", slice(900, 1000)),
        ("test[10:25]", slice(10, 25)),
        ("test[-10:]", slice(990, 1000)),
        ("test[:500] + test[500:]", slice(None)),
    ],
)
def test_split_expressions_work_without_tfds_too(expression, expected):
    whole, _ = load(source="bundled")
    source, _ = load(source="bundled", eval_split=expression)
    same(source.eval, {name: array[expected] for name, array in whole.eval.items()})


def test_the_sample_is_of_mnist_only():
    assert "data.name=mnist" in refused(source="bundled", name="cifar10")


# --- what can be said without TensorFlow -----------------------------------------------------------------------------

WRONG = {
    "data.source=auto": {"source": "autoo"},
    "Did you mean 'mnist'? Type data.name=mnist": {"name": "mnsit"},
    "data.name=emnist/letters": {"name": "emnist letters"},
    """'data.train_split="train[:90%]"'""": {"train_split": "train[:90%"},
    "data.image_size=[32,32]": {"image_size": (0, 28)},
    "data=folder data.path=/data": {"path": "/data"},
    "no folder to read": {"source": "folder"},
    "does not exist": {"source": "folder", "path": "/no/such/folder"},
    "is a file": {"source": "folder", "path": __file__},
    "Type data.download=true to download it": {"source": "tfds", "download": False, "dir": "/no/such/folder"},
    "has no split 'valid'; it has test, train. Type data.eval_split=test.": {"eval_split": "valid"},
}


def test_wrong_settings_are_refused_before_tensorflow_is_imported():
    code = f"""
import sys, time
from modetrain.data.sources import load as sources
from modetrain.data.sources import messages
from modetrain.errors import ConfigError
from modetrain.settings import DataSettings
begin = time.perf_counter()
for expected, given in {WRONG!r}.items():
    try:
        sources.check(DataSettings(**{{"name": "mnist", **given}}))
    except ConfigError as error:
        assert expected in str(error), (expected, str(error))
    else:
        raise AssertionError(f"{{given}} was not refused")
sources.check(DataSettings(name="emnist/letters:3.1.0"))
print(time.perf_counter() - begin, "tensorflow" in sys.modules, "tensorflow_datasets" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds, *imported = done.stdout.split()
    assert imported == ["False", "False"]
    assert float(seconds) < 1


@pytest.mark.parametrize("given", list(WRONG.values()), ids=list(WRONG))
def test_load_refuses_what_check_refuses(given):
    refused(**given)


def test_every_image_classification_set_of_tfds_is_known_by_name():
    import tensorflow_datasets as tfds

    registered = set(tfds.list_builders(with_community_datasets=False))
    known = names.shipped_names()
    assert {"mnist", "fashion_mnist", "kmnist", "cifar10", "emnist", "stl10", "i_naturalist2021"} <= known & registered
    for name in registered - known:
        assert ".image_classification." not in tfds.builder_cls(name).__module__, name


@pytest.mark.parametrize("value", ["train", "train[:90%]", "train+test", "/a b/c", "emnist/letters"])
def test_advice_can_be_typed(value):
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    (word,) = shlex.split(messages.data_override("train_split", value))
    override = OverridesParser.create().parse_override(word)
    assert (override.key_or_group, override.value()) == ("data.train_split", value)


def test_data_configs_have_known_keys_and_describe_themselves():
    import yaml

    files = sorted((ROOT / "conf" / "data").glob("*.yaml"))
    assert {file.stem for file in files} >= {"mnist", "fashion_mnist", "folder"}
    keys = {file.stem: list(yaml.safe_load(file.read_text())) for file in files}
    known = {field.name for field in dataclasses.fields(DataSettings)}
    functions = {name for name, found in keys.items() if "_target_" in found}  # their parameters are keys too
    assert all(set(found) <= known for name, found in keys.items() if name not in functions), keys
    assert all(file.read_text().startswith("# ") for file in files)


# --- prepared TFDS data ----------------------------------------------------------------------------------------------


def prepare(root: Path, name: str, features, splits, *, shards: int | None = None, supervised=None, version="1.0.0"):
    """Prepares a TFDS data set of the given {split: [example, ...]}, without leaving it in TFDS's registry."""
    import tensorflow_datasets as tfds

    def info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=supervised
        )

    members = {
        "name": name,
        "VERSION": tfds.core.Version(version),
        "_info": info,
        "_split_generators": lambda self, _: {split: self._generate_examples(split) for split in splits},
        "_generate_examples": lambda self, split: enumerate(splits[split]),
    }
    with network.silence_logs(), contextlib.redirect_stdout(io.StringIO()):
        builder = type(name, (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)(data_dir=root)
        tfds.disable_progress_bar()
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=shards))
        tfds.enable_progress_bar()
    return Path(builder.data_dir)


def mnist_features():
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(shape=(28, 28, 1)),
        "label": tfds.features.ClassLabel(num_classes=10),
    }


def examples(images, labels, image="image", label="label"):
    return [{image: one, label: int(other)} for one, other in zip(images, labels, strict=True)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data folder with a drop-in TFDS `mnist` of 200 + 100 digits, in three files a split."""
    root = tmp_path_factory.mktemp("tfds")
    images, labels = digits()
    splits = {"train": examples(images[:200], labels[:200]), "test": examples(images[200:], labels[200:])}
    prepare(root, "mnist", mnist_features(), splits, shards=3, supervised=("image", "label"), version="3.0.1")
    return root


@pytest.mark.parametrize(
    ("train", "evaluation"), [("train", "test"), ("train[10:150]", "train[60%:]"), ("train+test[:5]", "test[-7:]")]
)
def test_prepared_data_is_read_as_tfds_reads_it(prepared, train, evaluation):
    import tensorflow_datasets as tfds

    source, said = load(dir=str(prepared), train_split=train, eval_split=evaluation)
    assert source.kind == "tfds"
    assert source.description.startswith(f"TFDS mnist 3.0.1, prepared in {prepared}")
    assert source.classes == 10
    assert said == []
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    for arrays_, split in ((source.train, train), (source.eval, evaluation)):
        expected = list(
            tfds.builder("mnist", data_dir=prepared)
            .as_dataset(split=split, shuffle_files=False, read_config=in_order)
            .as_numpy_iterator()
        )
        assert arrays_["label"].dtype == np.int32
        np.testing.assert_array_equal(arrays_["image"], [example["image"] for example in expected])
        np.testing.assert_array_equal(arrays_["label"], [example["label"] for example in expected])


def test_nothing_is_lost_or_mixed_up(prepared):
    source, _ = load(dir=str(prepared))
    images, labels = digits()
    given = {image.tobytes(): label for image, label in zip(images[:200], labels[:200], strict=True)}
    read = {image.tobytes(): label for image, label in zip(*source.train.values(), strict=True)}
    assert read == given


def test_the_data_folder_may_come_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert load()[0].kind == "tfds"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"eval_split": "tset"},
            "has no split 'tset'; it has test, train. Did you mean 'test'? Type data.eval_split=test.",
        ),
        ({"eval_split": "validation"}, "it has test, train. Type data.eval_split=test."),
        ({"train_split": "train[0:0]"}, "no example is left"),
        ({"train_split": "train[a:b]"}, "TFDS cannot read it"),
        ({"name": "mnist/small"}, "TFDS mnist has no configuration 'small'"),
        ({"name": "emnist/leters"}, "Did you mean 'letters'? Type data.name=emnist/letters."),
        ({"name": "mnist:9.9.9"}, "Type data.name=mnist."),
        ({"name": "imdb_reviews", "download": False}, "it is not prepared in"),
    ],
)
def test_what_tfds_does_not_have_is_named_with_what_to_type(prepared, given, expected):
    message = refused(dir=str(prepared), **given)
    assert expected in message
    key, value = next(iter(given.items()))
    assert message.startswith(f"data.{key}={value}")


def test_a_set_without_test_split_says_which_to_type(tmp_path):
    prepare(tmp_path, "only_train", mnist_features(), {"train": examples(*digits(50))}, supervised=("image", "label"))
    message = refused(name="only_train", dir=str(tmp_path))
    first, second = "train[:90%]", "train[90%:]"
    assert f"""Type 'data.train_split="{first}"' 'data.eval_split="{second}"'.""" in message
    source, _ = load(name="only_train", dir=str(tmp_path), train_split=first, eval_split=second)
    assert (len(source.train["label"]), len(source.eval["label"])) == (45, 5)


def test_the_splits_of_prepared_data_are_known_without_tfds(tmp_path):
    described = tmp_path / "mine" / "1.0.0" / "dataset_info.json"
    described.parent.mkdir(parents=True)
    described.write_text(json.dumps({"name": "mine", "splits": [{"name": "train"}, {"name": "val"}]}))

    def check(**given):
        sources.check(DataSettings(**{"name": "mine", "dir": str(tmp_path), **given}))

    check(eval_split="val[:10%]+train")
    check(eval_split="all")
    check(eval_split="test", name="mine:2.0.0")  # that one may have it
    folder = {"source": "folder", "path": str(described.parent), "dir": None}
    for given in ({"eval_split": "test"}, {"eval_split": "train+test", "name": "mine:1.0.0"}, folder):
        with pytest.raises(ConfigError, match="has no split 'test'; it has train, val. Type data.eval_split=val."):
            check(**given)
    described.write_text("{")
    check(eval_split="test")  # what is wrong with it is said when it is loaded


def test_features_of_other_names_become_image_and_label(tmp_path):
    import tensorflow_datasets as tfds

    images, labels = digits(40)
    coloured = np.repeat(images, 3, axis=3)
    features = {
        "picture": tfds.features.Image(shape=(28, 28, 3)),
        "kind": tfds.features.ClassLabel(num_classes=12),
        "note": tfds.features.Text(),
    }
    splits = {"train": [{**one, "note": "x"} for one in examples(coloured, labels, "picture", "kind")]}
    for name, supervised in (("said", ("picture", "kind")), ("plain", None)):
        prepare(tmp_path, name, features, splits, supervised=supervised)
        source, _ = load(name=name, dir=str(tmp_path), eval_split="train")
        assert set(source.train) == {"image", "label"}
        assert source.train["image"].shape == (40, 28, 28, 3)
        assert source.classes == 12
        assert sorted(source.train["label"]) == sorted(labels)


def test_what_is_no_image_classification_keeps_its_own_features(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = {
        "picture": tfds.features.Image(shape=(None, None, 3)),
        "text": tfds.features.Text(),
        "objects": tfds.features.Sequence(
            {"bbox": tfds.features.BBoxFeature(), "kind": tfds.features.ClassLabel(num_classes=3)}
        ),
        "about": {"clip": tfds.features.Video((None, 4, 4, 1)), "score": np.float32},
    }

    def example(n):
        box = tfds.features.BBox(ymin=0.0, xmin=0.25, ymax=0.5, xmax=1.0)
        return {
            "picture": np.full((4 + n % 3, 5, 3), n, np.uint8),
            "text": f"nä {n}",
            "objects": [{"bbox": box, "kind": n % 3}] * (n % 3),
            "about": {"clip": np.full((2, 4, 4, 1), n, np.uint8), "score": n / 2},
        }

    prepare(tmp_path, "scenes", features, {"train": [example(n) for n in range(9)], "test": [example(9)] * 2}, shards=2)
    source, _ = load(name="scenes", dir=str(tmp_path), train_split="train[:8]", image_size=(6, 6))
    assert (source.kind, source.train.examples, source.evals[""].examples) == ("tfds", 8, 2)
    assert "(8 train, 2 evaluation)" in source.description
    assert source.train.shapes["objects/bbox"] == (None, 4)
    batch = {name: one.numpy() for name, one in source.train.gather(tf.constant([5, 0, 7], tf.int64)).items()}
    for at, text in enumerate(batch["text"]):
        n = int(text.decode().split()[1])
        assert (batch["picture"][at] == n).all()
        assert batch["objects/kind_length"][at] == n % 3
        assert batch["objects/bbox"][at].sum() == 1.75 * (n % 3)
        assert (batch["about/clip"][at] == n).all()
        assert batch["about/score"][at] == n / 2
    assert batch["picture"].shape == (3, 6, 6, 3)
    for rows in ([], [0]):
        assert len(source.train.gather(tf.constant(rows, tf.int64))["text"]) == len(rows)


def test_images_of_different_sizes_need_image_size(tmp_path):
    import tensorflow_datasets as tfds

    images, labels = digits(20)
    features = {**mnist_features(), "image": tfds.features.Image(shape=(None, None, 1))}
    cut = [image[: 28 - 4 * (index % 2)] for index, image in enumerate(images)]
    prepare(tmp_path, "uneven", features, {"train": examples(cut, labels)}, supervised=("image", "label"))
    message = refused(name="uneven", dir=str(tmp_path), eval_split="train")
    assert "images differ in size" in message
    assert "[24, 28, 1]" in message
    assert "[28, 28, 1]" in message
    assert "data.image_size=[64,64]" in message
    source, _ = load(name="uneven", dir=str(tmp_path), eval_split="train", image_size=(14, 16))
    assert source.train["image"].shape == (20, 14, 16, 1)
    assert source.train["image"].dtype == np.uint8
    assert source.train["image"].max() > 100, "pixels keep their range"


def test_unlabelled_examples_are_refused(tmp_path):
    images, labels = digits(10)
    splits = {"train": examples(images, labels), "test": examples(images, [-1] * 10)}
    prepare(tmp_path, "unlabelled", mnist_features(), splits, supervised=("image", "label"))
    assert "has the label -1" in refused(name="unlabelled", dir=str(tmp_path))


def _no_info(folder):
    (folder / "dataset_info.json").unlink()


def _broken_info(folder):
    (folder / "dataset_info.json").write_text("{")


def _no_shard(folder):
    next(folder.glob("*train*tfrecord*")).unlink()


def _empty_shard(folder):
    next(folder.glob("*train*tfrecord*")).write_bytes(b"")


def _nothing(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def _interrupted(folder):
    folder.rename(folder.with_name("incomplete.ABC123_3.0.1"))


@pytest.mark.parametrize("damage", [_no_info, _broken_info, _no_shard, _empty_shard, _nothing, _interrupted])
def test_half_prepared_is_not_prepared(prepared, tmp_path, closed_proxy, damage):
    root = tmp_path / "tfds"
    shutil.copytree(prepared, root)
    damage(root / "mnist" / "3.0.1")
    source, _ = load(dir=str(root))
    assert source.kind == "bundled"
    assert str(root) in source.description
    assert "data.source=bundled" in refused(dir=str(root), source="tfds")


def test_a_file_with_too_few_records_is_refused(prepared, tmp_path):
    import tensorflow as tf

    root = tmp_path / "tfds"
    shutil.copytree(prepared, root)
    shard = sorted((root / "mnist" / "3.0.1").glob("*train*tfrecord*"))[1]
    records = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    write_records(shard, records[:-1])
    assert "199 examples were read, 200 were expected" in refused(dir=str(root))


def test_a_damaged_file_is_named(prepared, tmp_path):
    root = tmp_path / "tfds"
    shutil.copytree(prepared, root)
    shard = sorted((root / "mnist" / "3.0.1").glob("*train*tfrecord*"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    message = refused(dir=str(root))
    assert str(shard) in message
    assert "damaged at record" in message


# --- without a network -----------------------------------------------------------------------------------------------


# TFDS left alone takes 205 s where it is refused, and for ever where nobody answers; what takes seconds may take tens of
# them on a busy machine.
SECONDS = 60


@contextlib.contextmanager
def listener(answer):
    """A TCP server on this machine; `answer(connection)` is called for each connection. Yields (port, connections)."""
    connections = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed below
            connections.append(connection)
            answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], connections
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        for connection in connections:
            connection.close()


def probed_once(connections) -> bool:
    """One connection, that of the probe, was made; on a busy machine it may come after the probe was given up."""
    deadline = time.monotonic() + SECONDS
    while not connections and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(connections) == 1


def through(monkeypatch, port):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed_proxy(monkeypatch):
    """Every request of the process is refused at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    through(monkeypatch, port)


def test_offline_mnist_is_the_sample_in_seconds(tmp_path, closed_proxy):
    import tensorflow  # noqa: F401  (what its import takes is not what is measured)
    import tensorflow_datasets  # noqa: F401

    begin = time.perf_counter()
    source, _ = load(dir=str(tmp_path))
    assert time.perf_counter() - begin < SECONDS
    assert source.kind == "bundled"
    assert source.description.startswith("bundled sample of MNIST (4,000 train, 1,000 test): TFDS mnist 3.0.1 is not ")
    assert str(tmp_path) in source.description
    assert "storage.googleapis.com cannot be reached" in source.description
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ({"source": "tfds"}, "data.source=bundled"),
        ({"name": "cifar10"}, "data=mnist"),
        ({"name": "fashion_mnist", "source": "tfds"}, "data.dir=DIR"),
    ],
)
def test_offline_others_are_errors_in_seconds(tmp_path, closed_proxy, given, typed):
    begin = time.perf_counter()
    message = refused(dir=str(tmp_path), **given)
    assert time.perf_counter() - begin < SECONDS
    assert "cannot be reached" in message
    assert typed in message


def test_a_network_that_never_answers_costs_seconds_and_no_storm(tmp_path, monkeypatch):
    with listener(lambda connection: None) as (port, connections):
        through(monkeypatch, port)
        begin = time.perf_counter()
        source, _ = load(dir=str(tmp_path))
        assert time.perf_counter() - begin < SECONDS
        assert source.kind == "bundled"
        assert "no answer in" in source.description
        assert probed_once(connections)


def test_earlier_downloads_of_other_data_change_nothing(tmp_path, monkeypatch):
    (tmp_path / "downloads").mkdir()
    asked = []

    def hears(connection):
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            asked.append((time.perf_counter() - begin, connection.recv(400)))

    with listener(hears) as (port, connections):
        through(monkeypatch, port)
        begin = time.perf_counter()
        source, said = load(dir=str(tmp_path))
        assert time.perf_counter() - begin < SECONDS
        assert source.kind == "bundled"
        assert said == []
        assert probed_once(connections), f"TFDS was not let out: {asked}"


def test_no_thread_of_a_download_that_was_given_up_goes_on(tmp_path, monkeypatch):
    """Not even a slow one, which would ask after the bounds are gone."""
    from tensorflow_datasets.core.download import downloader

    begun, original = [], downloader._Downloader._sync_download

    def slow(*args, **options):
        begun.append(args)
        time.sleep(1)
        return original(*args, **options)

    monkeypatch.setattr(downloader._Downloader, "_sync_download", slow)
    (tmp_path / "downloads").mkdir()
    with listener(lambda connection: None) as (port, connections):
        through(monkeypatch, port)
        assert load(dir=str(tmp_path))[0].kind == "bundled"
        time.sleep(1.5)
        assert begun == []
        assert probed_once(connections)


def test_a_proxy_that_says_no_costs_one_connection(tmp_path, monkeypatch):
    def no(connection):
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        connection.close()

    monkeypatch.setattr(network, "PROBE_SECONDS", float(SECONDS))  # it answers, however busy the machine
    with listener(no) as (port, connections):
        through(monkeypatch, port)
        source, _ = load(dir=str(tmp_path))
        assert "the proxy of the environment does not let it through" in source.description
        assert len(connections) == 1


def test_download_false_never_asks_the_network(tmp_path, monkeypatch):
    with listener(lambda connection: connection.close()) as (port, connections):
        through(monkeypatch, port)
        source, _ = load(dir=str(tmp_path), download=False)
        assert source.kind == "bundled"
        assert "data.download=false" in source.description
        message = refused(dir=str(tmp_path), download=False, source="tfds")
        assert "Type data.download=true" in message
        assert connections == []


# --- downloads, good and bad, from a server on this machine ----------------------------------------------------------


class Server(http.server.ThreadingHTTPServer):
    """Serves one archive of digits in the way `behave` says, and counts."""

    behave = "well"
    daemon_threads = True
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.gets = 0
        self.over = threading.Event()
        buffer = io.BytesIO()
        images, labels = digits(60)
        np.savez(buffer, image=images, label=labels)
        self.archive = buffer.getvalue()
        self.url = f"http://127.0.0.1:{self.server_port}/digits.npz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        self.server.gets += 1
        body, behave = self.server.archive, self.server.behave
        if behave == "is busy":
            self.send_response(503)
            self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if behave == "wants a login":
            body = b"<html>Please log in</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if behave in ("breaks off", "stalls") else body)
        self.wfile.flush()
        if behave == "stalls":
            self.server.over.wait(30)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network, "STALL_SECONDS", 1.0)
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.over.set()
        running.shutdown()


@functools.cache
def served_builder():
    """A TFDS data set of its own, registered under a name of its own, that is downloaded from the server."""
    import tensorflow_datasets as tfds

    class ModetrainServedDigits(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        URL = ""

        def _info(self):
            features = tfds.features.FeaturesDict(mnist_features())
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

        def _split_generators(self, dl_manager):
            path = dl_manager.download(self.URL)
            return {
                "train": self._generate_examples(path, slice(0, 40)),
                "test": self._generate_examples(path, slice(40, 60)),
            }

        def _generate_examples(self, path, part):
            with np.load(os.fspath(path)) as archive:
                yield from enumerate(examples(archive["image"][part], archive["label"][part]))

    return ModetrainServedDigits


@pytest.fixture
def served(server, monkeypatch):
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    digest = hashlib.sha256(server.archive).hexdigest()
    infos = {server.url: UrlInfo(size=Size(len(server.archive)), checksum=digest, filename="digits.npz")}
    monkeypatch.setattr(served_builder(), "URL", server.url)
    monkeypatch.setattr(served_builder(), "url_infos", infos)
    return server


def test_what_is_not_prepared_is_downloaded_once(served, tmp_path):
    source, said = load(name="modetrain_served_digits", dir=str(tmp_path))
    assert source.kind == "tfds"
    assert "downloaded and prepared in" in source.description
    assert (len(source.train["label"]), len(source.eval["label"])) == (40, 20)
    assert len(said) == 1
    assert "downloading modetrain_served_digits 1.0.0 from 127.0.0.1" in said[0]
    assert served.gets == 1

    again, said = load(name="modetrain_served_digits", dir=str(tmp_path))
    assert ", prepared in" in again.description
    assert said == []
    assert served.gets == 1
    same(source.train, again.train)


def test_earlier_downloads_are_used_without_a_network(served, tmp_path):
    first, _ = load(name="modetrain_served_digits", dir=str(tmp_path))
    shutil.rmtree(tmp_path / "modetrain_served_digits")
    served.shutdown()
    served.server_close()
    second, _ = load(name="modetrain_served_digits", dir=str(tmp_path))
    assert "prepared from earlier downloads" in second.description
    same(first.train, second.train)


BAD_SERVERS = {
    "is busy": "keeps answering with an error",
    "wants a login": "wrong checksum",
    "breaks off": "broke off",
    "stalls": "no answer in time",
}


@pytest.mark.parametrize("behave", BAD_SERVERS)
def test_a_download_that_fails_midway_is_a_prompt_error(served, tmp_path, behave):
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send
    served.behave = behave
    begin = time.perf_counter()
    message = refused(name="modetrain_served_digits", dir=str(tmp_path))
    assert time.perf_counter() - begin < SECONDS
    assert BAD_SERVERS[behave] in message
    assert "modetrain_served_digits 1.0.0 is not prepared" in message
    assert served.gets <= 3, "no storm of retries"
    assert HTTPAdapter.send is send, "other requests of the process are as they were"

    served.over.set()
    served.behave = "well"
    source, _ = load(name="modetrain_served_digits", dir=str(tmp_path))
    assert len(source.train["label"]) == 40, "nothing of the failed attempt is in the way"


def test_mnist_whose_download_fails_is_the_sample(server, tmp_path, monkeypatch):
    from tensorflow_datasets.image_classification import mnist

    server.behave = "wants a login"
    base = server.url.rpartition("/")[0] + "/"
    known = {base + url.rpartition("/")[2]: info for url, info in mnist.MNIST.url_infos.items()}
    monkeypatch.setattr(mnist.MNIST, "URL", base)
    monkeypatch.setattr(mnist.MNIST, "url_infos", known)
    source, said = load(dir=str(tmp_path))
    assert source.kind == "bundled"
    assert "wrong checksum" in source.description
    assert len(said) == 1
    assert "wrong checksum" in refused(dir=str(tmp_path), source="tfds")


# --- folders of one's own --------------------------------------------------------------------------------------------


def save_npz(folder: Path, **splits):
    folder.mkdir(exist_ok=True)
    for name, given in splits.items():
        np.savez(folder / f"{name}.npz", **given)
    return folder


def some(count=12, start=0, **more):
    images, labels = digits()
    return {"image": images[start : start + count], "label": labels[start : start + count], **more}


def example(image: bytes, label: int, **sides: int) -> bytes:
    import tensorflow as tf

    def whole(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    features = {"image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image])), "label": whole(label)}
    features.update({name: whole(value) for name, value in sides.items()})
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def png(image) -> bytes:
    import tensorflow as tf

    return tf.io.encode_png(image).numpy()


def write_records(file: Path, records, compression=""):
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(file), compression) as writer:
        for record in records:
            writer.write(record)


def from_folder(path, **given):
    source, _ = load(name="mine", source="folder", path=str(path), **given)
    assert source.kind == "folder"
    return source


def test_archives_keep_dtype_and_further_arrays(tmp_path):
    images = some()["image"][..., 0].astype(np.float32) / 255
    weights = np.arange(12, dtype=np.float64)
    save_npz(tmp_path, train=some(image=images, weight=weights), test=some(5, 12, image=images[:5], weight=weights[:5]))
    source = from_folder(tmp_path)
    np.testing.assert_array_equal(source.train["image"], images[..., None])
    assert source.train["image"].dtype == np.float32
    np.testing.assert_array_equal(source.train["weight"], weights)
    np.testing.assert_array_equal(source.train["label"], some()["label"])
    assert source.train["label"].dtype == np.int32
    assert source.classes == 1 + max(some()["label"].max(), some(5, 12)["label"].max())
    assert str(tmp_path) in source.description
    assert "12 train, 5 test" in source.description


def test_arrays_are_memory_mapped(tmp_path):
    for split, given in (("train", some(extra=np.zeros(12))), ("test", some(5, 12, extra=np.ones(5)))):
        (tmp_path / split).mkdir()
        for name, array in given.items():
            np.save(tmp_path / split / f"{name}.npy", array)
    source = from_folder(tmp_path, train_split="train[:50%]")
    same(source.train, {**some(6, extra=np.zeros(6)), "label": some(6)["label"].astype(np.int32)})
    assert isinstance(source.train["image"], np.memmap)
    assert list(source.eval["extra"]) == [1] * 5


def test_foreign_byte_order_is_converted(tmp_path):
    given = some(image=some()["image"].astype(">f4"), label=some()["label"].astype(">i8"))
    source = from_folder(save_npz(tmp_path, train=given, test=given))
    assert source.train["image"].dtype.isnative
    np.testing.assert_array_equal(source.train["image"], some()["image"])


def test_records_of_several_files_are_read_in_order(tmp_path):
    images, labels = some(30).values()
    encoded = [example(png(image), label) for image, label in zip(images, labels, strict=True)]
    write_records(tmp_path / "train-00000-of-00002.tfrecord", encoded[:17])
    write_records(tmp_path / "train-00001-of-00002.tfrecord", encoded[17:])
    write_records(tmp_path / "trainval.tfrecord", encoded[:1])
    raw = [example(i.tobytes(), n, height=28, width=28, channels=1) for i, n in zip(images, labels, strict=True)]
    write_records(tmp_path / "test.tfrecord.gz", raw[:9], "GZIP")
    source = from_folder(tmp_path)
    np.testing.assert_array_equal(source.train["image"], images)
    np.testing.assert_array_equal(source.train["label"], labels)
    np.testing.assert_array_equal(source.eval["image"], images[:9])
    np.testing.assert_array_equal(source.eval["label"], labels[:9])
    assert source.train["label"].dtype == np.int32


@pytest.mark.parametrize("channels", [1, 3])
def test_pngs_of_16_bits_stay_16_bits(tmp_path, channels):
    """As the same array in an archive does; each step scales both by 65535."""
    import tensorflow as tf

    from modetrain.recipe import scale_images

    image = np.random.default_rng(0).integers(0, 65536, (4, 6, 5, channels), dtype=np.uint16)
    deep = [example(png(one), 1) for one in image]
    for split in ("train", "test"):
        write_records(tmp_path / f"{split}.tfrecord", deep)
    found = from_folder(tmp_path).train["image"]
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, image)
    scaled = scale_images({"image": tf.constant(found)})["image"]
    np.testing.assert_allclose(scaled, image / 65535.0, rtol=1e-6)
    assert scaled.dtype == tf.float32
    write_records(tmp_path / "train.tfrecord", [*deep[:2], example(png(image[2].astype(np.uint8)), 1)])
    message = refused(name="mine", source="folder", path=str(tmp_path))
    assert "record 2" in message
    assert "record 0 has 16 bits a channel and this one has not: save all alike" in message


def test_hidden_files_are_no_data(tmp_path):
    """What systems and editors leave beside the user's files: `.DS_Store`, `._image.npy` of a Mac, `.ipynb_checkpoints`."""
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name, array in some().items():
            np.save(tmp_path / split / f"{name}.npy", array)
            (tmp_path / split / f"._{name}.npy").write_bytes(b"junk")
        (tmp_path / split / ".DS_Store").write_bytes(b"junk")
    (tmp_path / "._train.npz").write_bytes(b"junk")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert sorted(from_folder(tmp_path).train) == ["image", "label"]
    message = refused(name="mine", source="folder", path=str(tmp_path), eval_split="valid")
    assert "it has test, train." in message


def test_hidden_files_are_no_options(tmp_path):
    (tmp_path / "conf" / "recipe").mkdir(parents=True)
    (tmp_path / "conf" / ".hidden").mkdir()
    for name in ("recipe/mine.yaml", "recipe/._mine.yaml", ".hidden/one.yaml"):
        (tmp_path / "conf" / name).write_bytes(b"# Mine.\n" if "/m" in name else b"\x00\xff junk")
    folders = paths.conf_dirs(tmp_path)
    assert [name for name in paths.find_options("recipe", folders) if "mine" in name] == ["mine"]
    assert ".hidden" not in overrides.groups(folders)
    check.load(["recipe=mnist", "data.source=bundled"], tmp_path)


def test_a_split_that_nothing_needs_may_be_missing(tmp_path):
    """With callbacks.evaluate=null; one that is there is loaded, so that the number of classes stays the same."""
    given = {"name": "mine", "source": "folder", "path": str(tmp_path)}
    save_npz(tmp_path, train=some())
    settings = DataSettings(**given)
    sources.check(settings, evaluates=False)
    found = sources.load(settings, evaluates=False)
    assert found.eval == {}
    assert found.classes == 1 + some()["label"].max()
    assert "(12 train, no evaluation split)" in found.description
    assert sources.load(dataclasses.replace(settings, eval_split=None), evaluates=False).eval == {}
    with pytest.raises(ConfigError, match="Type callbacks.evaluate=null, or data.eval_split=test"):
        sources.check(dataclasses.replace(settings, eval_split=None))
    words = ["recipe=mnist", "data=folder", f"data.path={tmp_path}"]
    for more in (["callbacks.evaluate=null"], ["data.overfit=1"]):
        check.load([*words, *more], ROOT)
    with pytest.raises(ConfigError, match="Type .data.train_split=.* callbacks.evaluate=null."):
        check.load(words, ROOT)
    save_npz(tmp_path, test=some(label=np.full(12, 11)))
    assert sources.load(settings, evaluates=False).classes == 12
    with pytest.raises(ConfigError, match="no split 'tran'"):
        sources.load(dataclasses.replace(settings, train_split="tran"), evaluates=False)


def test_labels_that_training_never_sees_are_named(tmp_path):
    """Files that are sorted by class look like this when a part of them is taken."""
    save_npz(tmp_path, train=some(label=np.arange(12) // 4))
    splits = {"train_split": "train[:50%]", "eval_split": "train[50%:]"}
    _, lines = load(name="mine", source="folder", path=str(tmp_path), **splits)
    assert any("labels that no example of data.train_split=train[:50%] has (2)" in line for line in lines)
    _, lines = load(name="mine", source="folder", path=str(tmp_path), eval_split="train[:50%]")
    assert not lines


@pytest.mark.parametrize(("image", "label"), [("x_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_an_archive_of_several_splits_says_the_command_that_parts_it(tmp_path, image, label):
    """Such as the mnist.npz of Keras. The printed command is run as it is."""
    whole = {}
    for split in ("train", "test"):
        whole[image.format(split)], whole[label.format(split)] = some()["image"][..., 0], some()["label"][:, None]
    np.savez(tmp_path / "it's mnist.npz", **whole)
    message = refused(name="mine", source="folder", path=str(tmp_path))
    assert "holds several splits (test, train) in one archive" in message
    (command,) = [line for line in message.splitlines() if line.startswith("  python -c ")]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True, timeout=60)
    same(from_folder(tmp_path).train, {**some(), "label": some()["label"].astype(np.int32)})


def test_folders_of_pictures_and_tables_are_sent_to_the_page_that_helps(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.JPG").touch()
    message = refused(name="mine", source="folder", path=str(tmp_path))
    assert "holds a folder of pictures for each class (cat)" in message
    assert f"Type data=images data.path={tmp_path}." in message
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train.csv").touch()
    assert "train.csv is a table" in refused(name="mine", source="folder", path=str(tmp_path))


def test_jpeg_records(tmp_path):
    import tensorflow as tf

    image = np.repeat(some()["image"][0], 3, axis=2)
    write_records(tmp_path / "train.tfrecord", [example(tf.io.encode_jpeg(image, quality=95).numpy(), 1)] * 3)
    shutil.copy(tmp_path / "train.tfrecord", tmp_path / "test.tfrecord")
    source = from_folder(tmp_path)
    assert source.train["image"].shape == (3, 28, 28, 3)
    assert np.abs(source.train["image"].astype(int) - image).mean() < 5


def test_a_folder_that_tfds_prepared(prepared):
    by_name, _ = load(dir=str(prepared))
    source = from_folder(prepared / "mnist" / "3.0.1")
    same(source.train, by_name.train)
    same(source.eval, by_name.eval)
    assert "prepared by TFDS" in source.description


@pytest.mark.parametrize("size", [(14, 10), (40, 56)])
def test_image_size_is_the_same_for_every_kind_of_source(tmp_path, prepared, size):
    import tensorflow as tf

    arrays_ = from_folder(save_npz(tmp_path / "npz", train=some(), test=some()), image_size=size).train["image"]
    method = "area" if size[0] < 28 else "bilinear"
    expected = np.round(tf.image.resize(some()["image"], size, method=method).numpy())
    assert arrays_.dtype == np.uint8
    np.testing.assert_array_equal(arrays_, expected)

    (tmp_path / "records").mkdir()
    for split in ("train", "test"):
        records = [example(png(image), label) for image, label in zip(*some().values(), strict=True)]
        write_records(tmp_path / "records" / f"{split}.tfrecord", records)
    np.testing.assert_array_equal(from_folder(tmp_path / "records", image_size=size).train["image"], expected)

    small, whole = load(dir=str(prepared), image_size=size)[0].train["image"], load(dir=str(prepared))[0].train["image"]
    np.testing.assert_array_equal(small, np.round(tf.image.resize(whole, size, method=method).numpy()))


def test_masks_are_resized_with_their_images(tmp_path):
    """Each pixel of a class map takes its nearest one, floats are resized like images, other arrays stay."""
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 5, (12, 28, 28), dtype=np.int64)
    more = {"mask": mask, "depth": rng.random((12, 28, 28, 2)), "edge": mask > 2, "box": np.ones((12, 28))}
    save_npz(tmp_path, train=some(**more), test=some(**more))
    for size in ((14, 21), (40, 28)):
        found = from_folder(tmp_path, image_size=size).train
        rows, columns = (np.floor((np.arange(n) + 0.5) * 28 / n).astype(int) for n in size)
        np.testing.assert_array_equal(found["mask"], mask[:, rows][:, :, columns])
        np.testing.assert_array_equal(found["edge"], found["mask"] > 2)
        assert found["depth"].shape == (12, *size, 2)
        assert found["depth"].dtype == np.float64
        assert found["depth"].mean() == pytest.approx(more["depth"].mean(), abs=0.01)
        assert found["box"].shape == (12, 28)


def test_floats_are_resized_as_floats(tmp_path):
    given = some(image=some()["image"].astype(np.float64) / 255)
    image = from_folder(save_npz(tmp_path, train=given, test=given), image_size=(14, 14)).train["image"]
    assert image.dtype == np.float64
    assert 0 < image.mean() < 1


def _folder_of(train, test=None):
    return lambda folder: save_npz(folder, train=train, test=some() if test is None else test)


def _raw(content: bytes, name="train.npz"):
    def build(folder):
        _folder_of(some())(folder)
        (folder / "train.npz").unlink()
        (folder / name).write_bytes(content)

    return build


def _cut(folder):
    _folder_of(some(300))(folder)
    content = (folder / "train.npz").read_bytes()
    (folder / "train.npz").write_bytes(content[: len(content) // 2])


def _pickled(folder):
    objects = np.empty(3, object)
    _folder_of({"image": objects, "label": np.arange(3)})(folder)


def _records(*records, cut=None):
    def build(folder):
        images, labels = some().values()
        write_records(folder / "test.tfrecord", [example(png(i), n) for i, n in zip(images, labels, strict=True)])
        write_records(folder / "train.tfrecord", [record() if callable(record) else record for record in records])
        if cut is not None:
            content = (folder / "train.tfrecord").read_bytes()
            (folder / "train.tfrecord").write_bytes(content[:cut])

    return build


def _good(index=0, **crop):
    image = some()["image"][index]
    return lambda: example(png(image[: crop.get("height", 28)].repeat(crop.get("channels", 1), axis=2)), 3)


BAD_FOLDERS = {
    "empty": (lambda folder: None, ["holds nothing", "train.npz", "data.path="]),
    "other files": (lambda folder: (folder / "a.png").touch(), ["holds a.png", "Expected for data.train_split=train"]),
    "no test": (
        lambda folder: save_npz(folder, train=some()),
        ["has no split 'test'; it has train", "data.eval_split"],
    ),
    "split of another name": (
        lambda folder: save_npz(folder, train=some(), valid=some()),
        ["it has train, valid", "Type data.eval_split=valid."],
    ),
    "float labels": (_folder_of(some(label=np.ones(12))), ["train.npz", "`label` is float64", "integers of shape [n]"]),
    "labels in a column": (_folder_of(some(label=np.arange(12)[:, None])), ["[12, 1]", "Save label[:, 0]."]),
    "float labels in a column": (_folder_of(some(label=np.ones((12, 1)))), ["Save label[:, 0].astype(int)."]),
    "bool labels": (_folder_of(some(label=np.arange(12) % 2 == 0)), ["`label` is bool", "Save label.astype(int)."]),
    "labels that are no classes": (
        _folder_of(some(label=np.arange(12) / 7)),
        ["save it as target=, and let the recipe read batch['target']"],
    ),
    "multi-hot labels": (_folder_of(some(label=np.tri(12, dtype=int))), ["save it as target="]),
    "names for labels": (
        _folder_of(some(label=np.array(["cat", "dog"] * 6))),
        ["names = np.unique(train_label); save np.searchsorted(names, label)"],
    ),
    "one-hot labels": (_folder_of(some(label=np.eye(12))), ["float64 of shape [12, 12]", "label.argmax(axis=1)"]),
    "negative labels": (_folder_of(some(label=np.arange(12) - 1)), ["train.npz", "labels reach from -1 to 10"]),
    "lengths differ": (_folder_of(some(label=np.arange(11))), ["`label` is int64 of shape [11]", "12 rows"]),
    "further array too short": (_folder_of(some(weight=np.ones(3))), ["`weight` is float64 of shape [3]", "12 rows"]),
    "dates": (_folder_of(some(day=np.zeros(12, "datetime64[D]"))), ["`day` is datetime64[D]", "numbers or text"]),
    "flat images": (_folder_of(some(image=np.ones((12, 784)))), ["`image` is float64 of shape [12, 784]"]),
    "bool images": (_folder_of(some(image=np.ones((12, 4, 4), bool))), ["`image` is bool"]),
    "no examples": (_folder_of(some(0)), ["`image` is uint8 of shape [0, 28, 28, 1]"]),
    "label of one split": (_folder_of({"image": some()["image"]}), ["Save `label` in both splits"]),
    "cut archive": (_cut, ["train.npz: cannot be read", "np.savez"]),
    "no archive": (_raw(b"hello"), ["train.npz: cannot be read", "np.savez"]),
    "objects": (_pickled, ["train.npz: cannot be read (arrays of Python objects)"]),
    "train and test differ": (
        _folder_of(some(), some(image=np.ones((12, 32, 32, 1), np.uint8))),
        ["uint8 of 28x28x1 and uint8 of 32x32x1", "data.image_size=[28,28]"],
    ),
    "array of one split": (
        _folder_of(some(mask=np.ones((12, 28, 28), np.uint8))),
        ["the training examples have `mask`", "Save `mask` in both splits, or in neither"],
    ),
    "shapes of another array differ": (
        _folder_of(some(mask=np.ones((12, 28, 28))), some(mask=np.ones((12, 14, 14)))),
        ["`mask` of training and evaluation are float64 of 28x28 and float64 of 14x14"],
    ),
    "dtypes of another array differ": (
        _folder_of(some(mask=np.ones(12, np.int32)), some(mask=np.ones(12))),
        ["`mask` of training and evaluation are int32 and float64,"],
    ),
    "dtypes differ": (_folder_of(some(), some(image=np.ones((12, 28, 28, 1)))), ["uint8 of 28x28x1 and float64"]),
    "cut records": (_records(_good(), _good(), cut=300), ["train.tfrecord: not a whole TFRecord file"]),
    "no records": (
        _raw(b"not a TFRecord file, not at all", "train.tfrecord"),
        ["train.tfrecord: not a whole TFRecord"],
    ),
    "empty records": (_records(), ["train.tfrecord: holds no record"]),
    "no Example": (_records(b"\xff\xff\xff"), ["record 0 is no tf.train.Example"]),
    "raw without sides": (
        _records(lambda: example(some()["image"][0].tobytes(), 1)),
        ["train.tfrecord: record 0", "cannot be decoded"],
    ),
    "raw of wrong length": (
        _records(lambda: example(b"123", 1, height=2, width=2)),
        ["train.tfrecord: record 0 holds height (int64_list), image (bytes_list)", "cannot be decoded"],
    ),
    "later record broken": (_records(_good(), lambda: example(b"no png", 1)), ["train.tfrecord: record 1"]),
    "sizes differ": (_records(_good(), _good(height=20)), ["[20, 28, 1] in record 1", "data.image_size=[64,64]"]),
    "channels differ": (_records(_good(), _good(channels=3)), ["differ in channels", "[28, 28, 3] in record 1"]),
    "negative record labels": (_records(lambda: example(png(some()["image"][0]), -3)), ["labels reach from -3"]),
}


@pytest.mark.parametrize("build", BAD_FOLDERS)
def test_a_bad_folder_is_named_with_what_was_seen_and_expected(tmp_path, build):
    make, expected = BAD_FOLDERS[build]
    make(tmp_path)
    message = refused(name="mine", source="folder", path=str(tmp_path))
    assert str(tmp_path) in message
    for fragment in expected:
        assert fragment in message, message


def test_a_broken_npy_is_named(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        for name, array in some().items():
            np.save(tmp_path / split / f"{name}.npy", array)
    file = tmp_path / "test" / "image.npy"
    file.write_bytes(file.read_bytes()[:1000])
    assert f"{file}: cannot be read" in refused(name="mine", source="folder", path=str(tmp_path))


def test_a_half_copied_tfds_folder_is_refused(prepared, tmp_path):
    folder = tmp_path / "3.0.1"
    shutil.copytree(prepared / "mnist" / "3.0.1", folder)
    _no_shard(folder)
    assert "only half prepared" in refused(name="mine", source="folder", path=str(folder))
    info = folder / "dataset_info.json"
    info.write_text(json.dumps({"name": "x"}))
    assert str(folder) in refused(name="mine", source="folder", path=str(folder))


def test_the_parent_of_a_prepared_folder_says_which_to_type(prepared):
    message = refused(name="mine", source="folder", path=str(prepared))
    assert f"Type data.path={prepared / 'mnist' / '3.0.1'}." in message


# --- memory ----------------------------------------------------------------------------------------------------------


def test_free_memory_is_between_nothing_and_all():
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < arrays.free_memory() <= everything


@pytest.mark.parametrize("stored", ["npz", "tfrecord", "tfds"])
def test_what_would_not_fit_is_refused_before_it_is_allocated(tmp_path, prepared, stored):
    huge = (2_000_000, 2_000_000)
    begin = time.perf_counter()
    if stored == "tfds":
        message = refused(dir=str(prepared), image_size=huge)
    else:
        (_folder_of(some()) if stored == "npz" else _records(_good()))(tmp_path)
        message = refused(name="mine", source="folder", path=str(tmp_path), image_size=huge)
    assert time.perf_counter() - begin < SECONDS
    assert "GiB of free memory" in message
    assert "data.image_size=[32,32]" in message


def test_an_archive_that_would_not_fit_is_refused_unopened(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_SHARE_OF_MEMORY", 1e-9)
    _folder_of(some())(tmp_path)
    message = refused(name="mine", source="folder", path=str(tmp_path))
    assert ".npz: its arrays are" in message
    assert "save each of its arrays as NAME.npy" in message
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    monkeypatch.setattr(arrays, "_SHARE_OF_MEMORY", 0.9 * size / arrays.free_memory())
    assert "the arrays of its archives are" in refused(name="mine", source="folder", path=str(tmp_path))


def test_arrays_that_do_not_fit_are_read_by_rows(tmp_path, monkeypatch, make_data):
    """The same batches as in memory, bit for bit, with the same fingerprint; a part of them that fits is in memory."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        arrays_ = {
            "image": rng.integers(0, 256, (40, 12, 16), dtype=np.uint8),
            "label": rng.integers(0, 3, 40),
            "mask": rng.integers(0, 3, (40, 12, 16, 1), dtype=np.int16),
            "depth": rng.random((40, 12, 16)),
            "name": np.array([f"näh {number}" for number in range(40)]),
        }
        for name, array in arrays_.items():
            np.save(tmp_path / split / f"{name}.npy", array)
    for size in (None, (6, 20)):
        given = {"name": "mine", "source": "folder", "path": str(tmp_path), "image_size": size}
        given |= {"train_split": "train[5:]", "eval_split": "test"}
        whole, _ = load(**given)
        with monkeypatch.context() as patch:
            patch.setattr(arrays, "free_memory", lambda: 20_000)
            by_rows, _ = load(**given)
            part = {**given, "train_split": "train[:2]", "eval_split": "train[:1]"}
            assert isinstance(load(**part)[0].train["image"], np.ndarray)
        assert "0.0 GiB do not fit into memory: read by rows" in by_rows.description
        assert (by_rows.classes, by_rows.facts["image_shape"]) == (whole.classes, whole.facts["image_shape"])
        one, other = make_data(source=whole), make_data(source=by_rows)
        for step in (0, 9, 1_000_000):
            same(one.batch(step), other.batch(step))
        same(next(other.train_blocks(7, 2)).arrays, next(one.train_blocks(7, 2)).arrays)
        assert by_rows.train.first(2)["name"].tolist() == ["näh 5".encode(), "näh 6".encode()]
    for split in ("train", "test"):  # text is hashed in another form
        (tmp_path / split / "name.npy").unlink()
    whole, _ = load(**given)
    monkeypatch.setattr(arrays, "free_memory", lambda: 1000)
    assert load(**given)[0].train.fingerprint() == whole.train.fingerprint()


def test_arrays_of_any_names(tmp_path):
    text = np.array(["ab", "c", "ä"])
    save_npz(tmp_path, train={"x": np.ones((3, 2)), "label": np.array([0.5, 1, 2]), "text": text})
    found, _ = load(name="mine", source="folder", path=str(tmp_path), eval_split="train")
    assert found.train["label"].tolist() == [0.5, 1, 2]
    assert found.classes == 0
    assert found.train.gather([2])["text"].numpy().tolist() == ["ä".encode()]
