"""What reaches beyond the graph when a step calls it while it is traced, and the code of each: a table.

A code with more than a number says when the call counts; `calls.py` reads it so.
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
    *(
        "time",
        "time_ns",
        "perf_counter",
        "perf_counter_ns",
        "monotonic",
        "monotonic_ns",
        "process_time",
        "process_time_ns",
    ),
    *("thread_time", "thread_time_ns", "ctime", "localtime", "gmtime", "strftime", "asctime"),
)
UNSEEDED = "MT301 where no seed is given"
GLOBAL_SEEDS = "MT305"
# What libraries ask for all the time, for reasons of their own: counts where the user's line asks itself.
ASKED = {"MT103 asked": "MT103", "MT302 asked": "MT302", "MT303 asked": "MT303"}
_FILES = (
    "system",
    "popen",
    "mkdir",
    "makedirs",
    "remove",
    "unlink",
    "rename",
    "replace",
    "rmdir",
    "removedirs",
    "open",
    "putenv",
    "unsetenv",
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
# (where, names, code): what is exchanged, and what it means when the user's line calls it.
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
    (os, ("getpid", "getppid", "getloadavg"), "MT303 asked"),
    (socket, ("gethostname", "getfqdn"), "MT303 asked"),
    (platform, ("node",), "MT303 asked"),
    (threading, ("get_ident", "get_native_id"), "MT303 asked"),
    (time, ("clock_gettime", "clock_gettime_ns"), "MT302 asked"),
    (os, ("times",), "MT302 asked"),
    (os, ("listdir", "scandir", "stat"), "MT103 asked"),
    (os.path, ("exists", "isfile", "isdir", "getmtime", "getsize"), "MT103 asked"),
    (pathlib.Path, ("exists", "is_file", "is_dir", "stat", "iterdir", "glob", "rglob"), "MT103 asked"),
    (seed_generator, ("global_seed_generator",), GLOBAL_SEEDS),
    (tf.random.Generator, ("__init__",), MADE),
    (keras.Layer, ("__init__",), MADE),
    (keras.optimizers.Optimizer, ("__init__",), MADE),
    (keras.metrics.Metric, ("__init__",), MADE),
    (keras.Variable, ("__init__",), MADE),
)
