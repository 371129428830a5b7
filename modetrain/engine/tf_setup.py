"""What is global in TensorFlow and Keras, set once in a process: precision, determinism, graph passes, seeds."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from modetrain.engine import random
from modetrain.mode import Mode


def set_for(mode: Mode, seed: int, say: Callable[[str], None]) -> bool:
    """Sets what a mode and a seed ask for. Must come before any dataset, model or variable is made.

    Args:
      mode: how steps are run.
      seed: the run's.
      say: prints a line.

    Returns:
      Whether XLA draws eager's random numbers.
    """
    if mode.precision == "float64":
        keras.config.set_floatx("float64")
    keras.config.set_dtype_policy(mode.precision)
    if mode.debug_data:
        tf.data.experimental.enable_debug_mode()
    if mode.strict:
        # Sufficient for graph == eager, found by bisection; remapping, which fuses operations, as a precaution.
        passes = {"arithmetic_optimization": False, "constant_folding": False, "remapping": False}
        tf.config.optimizer.set_experimental_options(passes)
    if mode.deterministic:
        if mode.compile == "xla" and not tf.config.list_physical_devices("GPU"):
            say("mode.deterministic=true: XLA on a CPU is deterministic as it is, so TensorFlow's switch stays off")
        else:
            tf.config.experimental.enable_op_determinism()
    portable = mode.compile != "xla" or random.portable_works()
    if not portable:
        say(
            f"WARNING: with TensorFlow {tf.__version__} XLA cannot be made to draw eager's random numbers: dropout "
            "masks and other float draws differ from mode=eager's and mode=graph's (run.json: portable_draws)"
        )
    keras.utils.set_random_seed(seed)
    return portable
