"""What is global in TensorFlow and Keras, set once in a process: precision, determinism, graph passes, seeds."""

from __future__ import annotations

import logging

import keras
import tensorflow as tf

from modetrain.engine import random
from modetrain.mode import Mode

log = logging.getLogger(__name__)


def set_precision(mode: Mode) -> None:
    """Has Keras compute in a mode's precision. Must come before any model or variable is made."""
    keras.config.set_floatx("float64" if mode.precision == "float64" else "float32")
    keras.config.set_dtype_policy(mode.precision)


def apply(mode: Mode, seed: int) -> None:
    """Sets what a mode and a seed ask for. Must come before any dataset, model or variable is made.

    Args:
      mode: how steps are run.
      seed: the run's.
    """
    set_precision(mode)
    if mode.debug_data:
        tf.data.experimental.enable_debug_mode()
    if mode.strict:
        # Sufficient for graph == eager, found by bisection; remapping, which fuses operations, as a precaution.
        passes = {"arithmetic_optimization": False, "constant_folding": False, "remapping": False}
        tf.config.optimizer.set_experimental_options(passes)
    if mode.deterministic:
        if mode.compile == "xla" and not tf.config.list_physical_devices("GPU"):
            log.info(
                "mode.deterministic=true: XLA on a CPU is deterministic as it is, so TensorFlow's switch stays off"
            )
        else:
            tf.config.experimental.enable_op_determinism()
    if mode.compile == "xla" and not random.portable_works():
        log.warning(
            f"with TensorFlow {tf.__version__} XLA cannot be made to draw eager's random numbers: dropout "
            "masks and other float draws differ from mode=eager's and mode=graph's (run.json: portable_draws)"
        )
    keras.utils.set_random_seed(seed)
