"""TensorFlow's and Keras's global settings, set once in a process: precision, determinism, graph passes, seeds."""

from __future__ import annotations

import logging

import keras
import tensorflow as tf

from modetrain.engine import xla_random
from modetrain.mode import Mode

log = logging.getLogger(__name__)


def set_precision(mode: Mode) -> None:
    """Makes Keras compute in a mode's precision. Must be called before any model or variable is made."""
    keras.config.set_floatx("float64" if mode.precision == "float64" else "float32")
    keras.config.set_dtype_policy(mode.precision)


def apply(mode: Mode, seed: int) -> None:
    """Applies a mode's global settings and a seed. Must be called before any dataset, model or variable is made.

    Args:
      mode: how steps are run.
      seed: the run's seed.
    """
    set_precision(mode)
    if mode.debug_data:
        tf.data.experimental.enable_debug_mode()
    if mode.strict:
        # The first two suffice for graph == eager (found by bisection); remapping, which fuses operations, is off as a precaution.
        passes = {"arithmetic_optimization": False, "constant_folding": False, "remapping": False}
        tf.config.optimizer.set_experimental_options(passes)
    if mode.deterministic:
        if mode.compile == "xla" and not tf.config.list_physical_devices("GPU"):
            log.info("mode.deterministic=true: XLA on a CPU is always deterministic, so TensorFlow's switch stays off")
        else:
            tf.config.experimental.enable_op_determinism()
    if mode.compile == "xla" and not xla_random.is_portable():
        log.warning(
            f"with TensorFlow {tf.__version__} XLA cannot draw eager's random numbers: dropout masks and other float draws differ "
            "from mode=eager's and mode=graph's (run.json: portable_draws)"
        )
    keras.utils.set_random_seed(seed)
