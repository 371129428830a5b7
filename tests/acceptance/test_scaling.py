"""The arithmetic of the model of step time, docs/reference/scaling.md, and what the all-reduces of a step are counted from."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import tensorflow as tf

from benchmarks.scaling import Constants, doubt, line
from modetrain.tools.compare import speed
from modetrain.tools.inspect.detectors import collectives

RING = Constants(
    host_s=1.0,
    example_s=0.1,
    input_s=0.01,
    whole_batch=True,
    tensors=3,
    bytes=100,
    pair_s=2.0,
    bandwidth=50.0,
    ring=True,
)
ONE_PROCESS = dataclasses.replace(RING, ring=False)


def test_between_two_an_all_reduce_costs_what_was_measured():
    for constants in (RING, ONE_PROCESS):
        assert constants.all_reduce_s(1) == 0
        assert constants.all_reduce_s(2) == pytest.approx(3 * 2.0 + 100 / 50.0)


def test_a_ring_has_more_hops_and_moves_at_most_twice_the_bytes():
    assert RING.all_reduce_s(4) == pytest.approx(3 * (3 * 2.0) + 1.5 * 2.0)
    free = dataclasses.replace(RING, pair_s=0.0)
    assert free.all_reduce_s(4096) == pytest.approx(2 * 2.0, rel=1e-3)


def test_who_adds_up_for_all_has_as_much_more_to_do_as_there_are():
    assert ONE_PROCESS.all_reduce_s(8) == pytest.approx(4 * ONE_PROCESS.all_reduce_s(2))


def test_a_step_is_the_sum_of_its_parts():
    rest = RING.all_reduce_s(4)
    assert RING.step_s(4, 40) == pytest.approx(1.0 + 0.1 * 10 + 0.01 * 40 + rest)
    share_only = dataclasses.replace(RING, whole_batch=False)
    assert share_only.step_s(4, 40) == pytest.approx(1.0 + 0.1 * 10 + 0.01 * 10 + rest)


def compared(batch_size, *p50):
    return [
        {"batch_size": batch_size, "reference": "graph", "arms": {"graph": {"time": {"step_ms": {"p50": ms}}}}}
        for ms in p50
    ]


def test_a_line_through_two_points_that_cannot_be_right_is_doubted():
    good = compared(64, 40.0, 20.0), compared(256, 68.0)
    assert line(*good) == pytest.approx((0.004, 0.00025))
    assert doubt(*good) is None
    warning = doubt(compared(64, 17.47), compared(256, 77.35))
    assert "17.47 ms at batch 64 and 77.35 ms at batch 256 give -2.49 ms a step" in warning
    assert "Repeat both" in warning
    assert doubt(compared(64, 20.0), compared(256, 19.0)) is not None


def test_constants_are_printed_with_units_and_the_check_comes_last(tmp_path):
    reduce = {"tensors_per_step": 11, "bytes_per_step": 203052, "latency_ms": 1.0, "bandwidth_mb_per_s": 400.0}
    arm = {"time": {"all_reduce": reduce}, "effective": {"workers": 2}}
    files = []
    for (found,) in (compared(64, 17.0), compared(256, 77.0)):
        found["arms"]["multiworker"] = arm
        found["arms"]["graph"]["time"]["all_reduce"] = None
        found["input"] = {"step_ms": 0.1, "whole_batch": True}
        files.append(tmp_path / f"{found['batch_size']}.json")
        files[-1].write_text(json.dumps(found))
    run = {"mode": {"requested": "multiworker", "effective": {"strategy": "multiworker", "replicas": 2}}}
    run |= {"data": {"batch_size": 64}, "time": {"step_ms": {"p50": 30.0}}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    words = ["--small", files[0], "--large", files[1], "--check", tmp_path / "run.json", "--cores", "2"]
    done = subprocess.run([sys.executable, "benchmarks/scaling.py", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pair_s 0.001 s an all-reduce" in done.stdout
    assert "WARNING: 17.00 ms at batch 64" in done.stdout
    assert "measured 30.0 ms, predicted" in done.stdout.splitlines()[-1]


def test_on_one_machine_replicas_share_its_cores():
    rest = RING.all_reduce_s(4)
    assert RING.shared_step_s(4, 40, cores=2) == pytest.approx(2 * 1.0 + 0.1 * 40 + 0.01 * 160 + rest)
    assert RING.shared_step_s(1, 40, cores=2) == pytest.approx(RING.step_s(1, 40))
    rest = ONE_PROCESS.all_reduce_s(4)
    assert ONE_PROCESS.shared_step_s(4, 40, cores=4) == pytest.approx(1.0 + 0.1 * 40 + 0.01 * 40 + rest)


def test_collectives_are_counted_once_for_all_replicas_of_a_process():
    graph = tf.Graph()
    with graph.as_default():
        for device in range(2):
            with tf.device(f"CPU:{device}"):
                for key, size in ((1, 5), (2, 7)):
                    keys = {"group_size": 2, "group_key": 1, "instance_key": key}
                    tf.raw_ops.CollectiveReduceV2(
                        input=tf.zeros([size]), ordering_token=[], merge_op="Add", final_op="Id", **keys
                    )
    assert speed.all_reduce_bytes_in(graph) == [20, 28]


def test_sums_over_devices_are_counted_and_other_sums_are_not():
    graph = tf.Graph()
    with graph.as_default():
        values = []
        for device in range(2):
            with tf.device(f"CPU:{device}"):
                values.append(tf.zeros([3], tf.float64) + 1.0)
                tf.add_n([values[-1], values[-1] * 2.0])
        tf.add_n(values)
    assert speed.all_reduce_bytes_in(graph) == [24]


@pytest.mark.parametrize("around", ["branch", "loop"])
def test_what_is_taken_from_all_replicas_within_a_branch_or_a_loop_is_seen(around):
    def mean(value):
        return tf.distribute.get_replica_context().all_reduce("MEAN", value)

    def step(value, meets):
        take = mean if meets else tf.identity
        if around == "branch":
            return tf.cond(value[0] > 0, lambda: take(value), lambda: value)
        return tf.while_loop(lambda one: one[0] < 9, lambda one: [take(one) + 1], [value])[0]

    for meets in (True, False):
        with collectives.mark_collectives():
            graph = tf.function(step, autograph=False).get_concrete_function(tf.TensorSpec([3]), meets).graph
        assert not any(collectives.is_collective(op) for op in graph.get_operations()), "it lies deeper"
        assert collectives.has_collectives(graph) == meets
