"""The functions that reach beyond the graph when a step calls them while it is traced, each with its code: a table.

A code with more than a number says when the call counts; `side_effects.py` reads it.
"""

from __future__ import annotations

import builtins
import io
import logging
import os
import pathlib
import platform
import random
import socket
import subprocess
import threading
import time
import types
import uuid
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.random import seed_generator

MADE = "MT206"
_CLOCKS = (
    *("time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time"),
    *("process_time_ns", "thread_time", "thread_time_ns", "ctime", "localtime", "gmtime", "strftime", "asctime"),
)
UNSEEDED = "MT301 where no seed is given"
GLOBAL_SEEDS = "MT305"
# What libraries call all the time, for reasons of their own: counts only where the user's line makes the call.
CALLED_BY_USER = {
    "MT103 by the user's line": "MT103",
    "MT302 by the user's line": "MT302",
    "MT303 by the user's line": "MT303",
}
_FILES = (
    *("system", "popen", "mkdir", "makedirs", "remove", "unlink", "rename", "replace", "rmdir", "removedirs"),
    *("open", "putenv", "unsetenv"),
)
_RANDOM = tuple(
    name
    for name in random.__all__
    if isinstance(getattr(random, name), (types.MethodType, types.BuiltinFunctionType))
    and name not in ("seed", "getstate", "setstate")
)
_NUMPY = tuple(
    name
    for name in np.random.__all__
    if isinstance(getattr(np.random, name), (types.BuiltinFunctionType, types.MethodType))
    or type(getattr(np.random, name)).__name__ == "cython_function_or_method"
    if name not in ("seed", "get_state", "set_state", "default_rng", "get_bit_generator", "set_bit_generator")
)
# (where, names, code): what is replaced, and the code of a call by the user's line.
TABLE: tuple[tuple[Any, tuple[str, ...], str], ...] = (
    (builtins, ("print",), "MT101"),
    (logging.Logger, ("isEnabledFor",), "MT102"),
    (warnings, ("warn", "warn_explicit"), "MT102"),
    (builtins, ("open",), "MT103"),
    (io, ("open",), "MT103"),
    (os, _FILES, "MT103"),
    (subprocess.Popen, ("__init__",), "MT103"),
    (socket.socket, ("connect",), "MT103"),
    (builtins, ("input", "breakpoint"), "MT104"),
    (time, ("sleep",), "MT104"),
    (random, _RANDOM, "MT301"),
    (np.random, _NUMPY, "MT301"),
    (np.random, ("default_rng",), UNSEEDED),
    (time, _CLOCKS, "MT302"),
    (os, ("urandom", "getrandom"), "MT303"),
    (random, ("_urandom",), "MT303"),
    (uuid, ("uuid1", "uuid4"), "MT303"),
    (os, ("getpid", "getppid", "getloadavg"), "MT303 by the user's line"),
    (socket, ("gethostname", "getfqdn"), "MT303 by the user's line"),
    (platform, ("node",), "MT303 by the user's line"),
    (threading, ("get_ident", "get_native_id"), "MT303 by the user's line"),
    (time, ("clock_gettime", "clock_gettime_ns"), "MT302 by the user's line"),
    (os, ("times",), "MT302 by the user's line"),
    (os, ("listdir", "scandir", "stat"), "MT103 by the user's line"),
    (os.path, ("exists", "isfile", "isdir", "getmtime", "getsize"), "MT103 by the user's line"),
    (pathlib.Path, ("exists", "is_file", "is_dir", "stat", "iterdir", "glob", "rglob"), "MT103 by the user's line"),
    (seed_generator, ("global_seed_generator",), GLOBAL_SEEDS),
    (tf.random.Generator, ("__init__",), MADE),
    (keras.Layer, ("__init__",), MADE),
    (keras.optimizers.Optimizer, ("__init__",), MADE),
    (keras.metrics.Metric, ("__init__",), MADE),
    (keras.Variable, ("__init__",), MADE),
)
