"""Event files lose nothing and double nothing: cut where a run goes on, for TensorBoard and for a plain reader alike."""

from __future__ import annotations

import os
import resource
import shutil
import signal

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from modetrain.files.tensorboard import TensorBoardWriter, truncate


def written(folder, steps, value=0.0):
    events = TensorBoardWriter(folder)
    for step in steps:
        events.scalars({"train/loss": value + step}, step)
    events.close()


def plain(folder):
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            found += [(event.step, value.tensor.float_val[0]) for value in event.summary.value]
    return found


def in_tensorboard(folder):
    read = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return [(event.step, event.tensor_proto.float_val[0]) for event in read.Tensors("train/loss")]


def test_what_was_written_after_the_step_is_gone_and_the_rest_is_there(tmp_path):
    written(tmp_path, [2, 4, 6, 8])
    assert truncate(tmp_path, 5) == 2
    assert plain(tmp_path) == [(2, 2.0), (4, 4.0)]
    written(tmp_path, [6, 8, 10], value=0.5)
    wanted = [(2, 2.0), (4, 4.0), (6, 6.5), (8, 8.5), (10, 10.5)]
    assert plain(tmp_path) == in_tensorboard(tmp_path) == wanted


def test_a_tensorboard_that_has_read_them_already_forgets_them(tmp_path):
    written(tmp_path, [2, 4, 6, 8])
    open_one = plugin_event_accumulator.EventAccumulator(str(tmp_path)).Reload()  # what its web page reads with
    assert len(open_one.Tensors("train/loss")) == 4
    truncate(tmp_path, 4)
    written(tmp_path, [6], value=0.5)
    shown = [(event.step, event.tensor_proto.float_val[0]) for event in open_one.Reload().Tensors("train/loss")]
    assert shown == [(2, 2.0), (4, 4.0), (6, 6.5)]


@pytest.mark.parametrize("garbage", [b"", b"\x07", b"\x00" * 64, b"\xff" * 40])
def test_a_last_record_that_a_crash_cut_short_is_left_out(garbage, tmp_path):
    written(tmp_path, [1, 2, 3])
    (file,) = tmp_path.glob("events.out.tfevents.*")
    file.write_bytes(file.read_bytes()[:-5] + garbage)
    truncate(tmp_path, 9)
    written(tmp_path, [3])
    assert plain(tmp_path) == in_tensorboard(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_several_resumes_in_one_folder(tmp_path):
    for n, (begin, end) in enumerate([(0, 7), (4, 9), (4, 6), (2, 12)]):
        events = TensorBoardWriter(tmp_path)
        events.rewind(begin)
        for step in range(begin + 1, end):
            events.scalars({"train/loss": float(n)}, step)
        events.close()
    wanted = [(1, 0.0), (2, 0.0), *((step, 3.0) for step in range(3, 12))]
    assert plain(tmp_path) == in_tensorboard(tmp_path) == wanted


def test_images_are_cut_too(tmp_path):
    events = TensorBoardWriter(tmp_path)
    for step in (1, 2):
        events.images("samples", tf.zeros([1, 4, 4, 1]).numpy(), step)
    events.close()
    assert truncate(tmp_path, 1) == 1


def test_in_a_fresh_folder_there_is_nothing_to_cut(tmp_path):
    events = TensorBoardWriter(tmp_path)
    events.rewind(0)
    assert list(tmp_path.iterdir()) == []
    events.scalars({"a": 1.0}, 1)
    events.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_worker_that_is_not_the_chief_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    events = TensorBoardWriter(None)
    events.scalars({"a": 1.0}, 1)
    events.flush()
    events.rewind(0)
    events.close()
    assert os.listdir(tmp_path) == []


# --- what goes wrong with them costs curves alone --------------------------------------------------------------------


def test_a_folder_that_is_removed_is_made_again_and_logged(tmp_path, said):
    folder = tmp_path / "run"
    events = TensorBoardWriter(folder)
    folder.mkdir()
    events.scalars({"train/loss": 1.0}, 1)
    events.flush()
    shutil.rmtree(folder)
    for step in (2, 3):
        events.scalars({"train/loss": float(step)}, step)
    events.close()
    assert plain(folder) == [(2, 2.0), (3, 3.0)]
    assert len(said) == 1
    assert "was removed while this run writes to it" in said[0]


def test_files_that_are_removed_are_started_again(tmp_path):
    events = TensorBoardWriter(tmp_path)
    events.scalars({"train/loss": 1.0}, 1)
    events.flush()
    for file in tmp_path.iterdir():
        file.unlink()
    events.scalars({"train/loss": 2.0}, 2)
    events.close()
    assert plain(tmp_path) == [(2, 2.0)]


def test_a_full_disk_is_said_once_and_nothing_is_raised(tmp_path, said):
    events = TensorBoardWriter(tmp_path)
    events.scalars({"train/loss": 1.0}, 1)
    events.flush()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, old[1]))
    try:
        for step in range(2, 60):
            events.scalars({"train/loss": float(step)}, step)
            events.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    events.close()
    assert len(said) == 1
    assert "training continues without them" in said[0]
