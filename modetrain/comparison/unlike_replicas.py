"""Why a step over several replicas differs: the line that makes them another computation, where `inspect` knows one."""

from __future__ import annotations

import tensorflow as tf

from modetrain.comparison.arm import Arm
from modetrain.comparison.cause import Explanation
from modetrain.inspect.codes import CODES
from modetrain.inspect.inspector import Inspector
from modetrain.inspect.steps import mode_for


def difference(arm: Arm, number: int) -> Explanation | None:
    """Why an arm of several replicas differs from the reference in a step; None where that could not be found out."""
    inspector = Inspector(
        arm.recipe,
        [{name: tf.constant(array[number]) for name, array in arm.batches.items()}],
        mode=mode_for("graph", arm.mode),
        replicas=arm.replicas,
        target="graph",
        several=True,
    )
    found = next((one for one in inspector.findings() if one.mode == "replicas"), None)
    if found is None:
        return None
    said = f"Inspect says {found.code}, {CODES[found.code].title}: {found.what}, at {found.place}."
    return Explanation(place=found.place, said=(said,), advice=found.fix, blame="replicas")
