"""TensorFlow's and Keras's global settings: precision, determinism, graph passes, seeds.

with tf_setup.restored():         # the next run of the process finds what this one found, except seeds
    tf_setup.apply(mode, seed)
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import keras
import tensorflow as tf
from tensorflow.python.data.ops import debug_mode
from tensorflow.python.framework import config as tf_config

from modetrain.mode import Mode

log = logging.getLogger(__name__)

# The passes that `mode.strict` switches off. The first two suffice for graph == eager (found by bisection); remapping, which
# fuses operations, is off as a precaution.
_STRICT = ("arithmetic_optimization", "constant_folding", "remapping")


def set_precision(mode: Mode) -> None:
    """Makes Keras compute in a mode's precision. Must be called before any model or variable is made."""
    keras.config.set_floatx("float64" if mode.precision == "float64" else "float32")
    keras.config.set_dtype_policy(mode.precision)


@contextlib.contextmanager
def precision(mode: Mode) -> Iterator[None]:
    """Within this Keras computes in a mode's precision."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    set_precision(mode)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


@contextlib.contextmanager
def restored(*, check_numerics: bool = False) -> Iterator[None]:
    """At the end of this, what `apply` changes is as it was, except seeds.

    Args:
      check_numerics: whether TensorFlow's numeric checks are switched on inside.
    """
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    debugs, deterministic = debug_mode.DEBUG_MODE, tf_config.is_op_determinism_enabled()
    passes = tf.config.optimizer.get_experimental_options()
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)
        debug_mode.toggle_debug_mode(debugs)
        tf.config.optimizer.set_experimental_options({name: passes.get(name, True) for name in _STRICT})
        if not deterministic:
            tf_config.disable_op_determinism()
        if check_numerics:
            tf.debugging.disable_check_numerics()


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
        tf.config.optimizer.set_experimental_options(dict.fromkeys(_STRICT, False))
    if mode.deterministic:
        if mode.compile == "xla" and not tf.config.list_physical_devices("GPU"):
            log.info("mode.deterministic=true: XLA on a CPU is always deterministic, so TensorFlow's switch stays off")
        else:
            tf.config.experimental.enable_op_determinism()
    if mode.compile == "xla" and not _draws_are_portable():
        log.warning(
            f"with TensorFlow {tf.__version__} XLA cannot draw eager's random numbers: dropout masks and other float draws differ "
            "from mode=eager's and mode=graph's (run.json: portable_draws)"
        )
    keras.utils.set_random_seed(seed)


def _draws_are_portable() -> bool:
    from modetrain.engine import xla_random  # no other mode loads it

    return xla_random.is_portable()


@contextlib.contextmanager
def without_graph_optimizations() -> Iterator[None]:
    """Within this, graphs run as they were traced."""
    old = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options(dict.fromkeys(_STRICT, False))
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({**dict.fromkeys(_STRICT, True), **old})
