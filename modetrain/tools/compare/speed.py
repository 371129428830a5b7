"""Measures the speed of a variant: compiling, the first step, later steps, memory, and all-reduces over replicas."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.data.dataset import Data
from modetrain.diagnostics import graph_ops
from modetrain.engine.devices import Replicas
from modetrain.tools.compare.observation import State, Times
from modetrain.tools.compare.variant import Variant
from modetrain.tools.inspect.detectors import collectives
from modetrain.tools.step_runner import StepRunner

_SECONDS = 1.0  # the least time to measure for
_LEAST_CALLS, _MOST_CALLS = 5, 200
_FLOATS = (256, 16_384, 262_144, 2_097_152)
_REPEATS = 10


def measure(variant: Variant, start: State, compile_s: float) -> Times:
    """Times steps from `start` on.

    Args:
      variant: compiled already; its state is another one afterwards.
      start: a state to begin from.
      compile_s: what tracing and compiling took.
    """
    variant.load(start)
    block, length = variant.block, variant.steps
    began = time.perf_counter()
    variant.program(block, 0, 1)
    first_ms = (time.perf_counter() - began) * 1e3
    per_step, spent, calls = [], 0.0, 0
    at_once = 1 if variant.mode.compile == "eager" else length
    # All workers have to make the same number of calls.
    fixed = _LEAST_CALLS if variant.replicas.workers > 1 else None
    while calls < (fixed or _MOST_CALLS) and (calls < _LEAST_CALLS or (fixed is None and spent < _SECONDS)):
        lo = calls % length if at_once == 1 else 0
        began = time.perf_counter()
        variant.program(block, lo, lo + at_once)
        took = time.perf_counter() - began
        per_step.append(took / at_once * 1e3)
        spent, calls = spent + took, calls + 1
    p50, p90 = (float(np.percentile(per_step, q)) for q in (50, 90))
    examples = next(iter(variant.batches.values())).shape[1]
    return Times(
        compile_s=compile_s,
        first_step_ms=first_ms,
        step_ms={"p50": p50, "p90": p90},
        examples_per_s=examples / p50 * 1e3,
        steps_per_call=at_once,
        traces=variant.program.traces,
        all_reduce=all_reduce(variant) if variant.replicas.count > 1 else None,
    )


def input_cost(data: Data, first: int, length: int) -> Mapping[str, Any]:
    """What making batches costs on all processors of this machine, without steps.

    Args:
      data: of one device.
      first: number of a step.
      length: how many steps a block has.

    Returns:
      `step_ms` of a global batch, and whether each worker makes the `whole_batch` or only its share.
    """
    blocks = data.train_blocks(first, length)
    for _ in range(3):  # the pipeline starts, and has some ahead
        next(blocks)
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < _SECONDS / 2:
        next(blocks)
        count += length
    return {"step_ms": spent / count * 1e3, "whole_batch": data.prepares}


def peak_memory_mb() -> float:
    """The most memory this process has held; on a GPU, of that."""
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def all_reduce(variant: Variant) -> Mapping[str, Any]:
    """The cost of all-reduces: how many a step has, their bytes, and latency and bandwidth fitted to tensors of a few sizes."""
    moved = all_reduce_bytes(variant)
    measured = [{"bytes": count * 4, "ms": _time_all_reduce(variant.replicas, count)} for count in _FLOATS]
    sizes, times = np.array([m["bytes"] for m in measured], float), np.array([m["ms"] for m in measured], float)
    # Fits relative errors, since in absolute ones the largest tensor alone would decide.
    slope, base = np.polyfit(sizes, times, 1, w=1.0 / times)
    return {
        "tensors_per_step": len(moved),
        "bytes_per_step": sum(moved),
        "latency_ms": float(max(base, 0.0)),
        "bandwidth_mb_per_s": float(1e3 / slope / 2**20) if slope > 0 else None,
        "measured": measured,
    }


def all_reduce_bytes(variant: StepRunner) -> list[int]:
    """Bytes that a replica gives to each all-reduce of a step; a shape that is not known counts 0 bytes.

    Tensors that TensorFlow packs into one collective count as one. Logical CPUs of one process have no collectives: there a sum
    over several devices counts. Of a loop within the step one round counts. A step that runs eagerly is traced for this.
    """
    parts = variant.block.parts
    last = all_reduce_bytes_in(variant.trace().graph)
    early = all_reduce_bytes_in(variant.trace(last_part=False).graph) if parts > 1 else []
    return early * (parts - 1) + last


def all_reduce_bytes_in(graph: tf.Graph) -> list[int]:
    """The same of a graph that holds the step of every replica of this process."""
    found = [op for op in graph_ops.operations(graph) if collectives.is_collective(op)]
    # One sum is that of all replicas; a collective is one operation for each replica.
    first = next((op.device for op in found if op.type != "AddN"), None)
    return [_bytes(op.inputs[0]) for op in found if op.type == "AddN" or op.device == first]


def _bytes(tensor: tf.Tensor) -> int:
    return (tensor.shape.num_elements() or 0) * tensor.dtype.size


def _time_all_reduce(replicas: Replicas, count: int) -> float:
    """Milliseconds of one all-reduce of `count` floats, as one of many in a call."""
    strategy = replicas.strategy
    assert strategy is not None

    def on_replica(value):
        value = tf.identity(value)  # on this replica's device
        for _ in range(_REPEATS):  # one after the other: each needs the one before
            value = tf.distribute.get_replica_context().all_reduce("MEAN", value)
        return tf.reduce_sum(value)

    run = tf.function(
        lambda value: strategy.experimental_local_results(strategy.run(on_replica, args=(value,)))[0], autograph=False
    )
    value = tf.ones([count])
    run(value).numpy()
    took = []
    for _ in range(5):
        began = time.perf_counter()
        run(value).numpy()
        took.append(time.perf_counter() - began)
    return float(np.median(took)) / _REPEATS * 1e3
