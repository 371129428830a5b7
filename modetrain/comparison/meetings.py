"""Where the replicas of a step meet, and what they move there: read from the graph of the step."""

from __future__ import annotations

import tensorflow as tf

from modetrain.comparison.arm import Arm
from modetrain.inspect import graphs


def of_a_step(arm: Arm) -> list[int]:
    """Bytes that a replica gives to each all-reduce of a step; a shape that is not known counts 0 bytes.

    What TensorFlow packs into one collective is one. Logical CPUs of one process have no collectives: a sum over several
    devices is one there. Of a loop within the step one round is counted. A step that runs eagerly is traced for this.
    """
    parts = arm.block.parts
    last = of_graph(arm.program.trace(arm.block, last_part=True).graph)
    early = of_graph(arm.program.trace(arm.block, last_part=False).graph) if parts > 1 else []
    return early * (parts - 1) + last


def of_graph(graph: tf.Graph) -> list[int]:
    """The same of a graph that holds the step of every replica of this process."""
    found = [op for op in graphs.operations(graph) if graphs.meets(op)]
    # One sum is that of all replicas, and of a collective each replica has an end of its own.
    first = next((op.device for op in found if op.type != "AddN"), None)
    return [_bytes(op.inputs[0]) for op in found if op.type == "AddN" or op.device == first]


def _bytes(tensor: tf.Tensor) -> int:
    return (tensor.shape.num_elements() or 0) * tensor.dtype.size
