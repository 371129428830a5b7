"""The fingerprint of a run: what its results depend on besides the configuration, such as code, data and versions.

Each checkpoint holds it, so that a resumed run can list exactly what has changed.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import keras
import tensorflow as tf

from modetrain.data.source import Source
from modetrain.engine.devices import Replicas
from modetrain.recipe import Recipe


def compute(recipe: Recipe, source: Source, replicas: Replicas) -> dict[str, Any]:
    """Short descriptions by name; equal if nothing has changed."""
    return {
        "code of the recipe": _code(type(recipe)),
        "variables": _short(repr([(n, tuple(v.shape), str(v.dtype)) for n, v in recipe.state().items()]).encode()),
        "training examples' content": source.train.fingerprint(),
        "classes": source.classes,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "kind of device": replicas.devices[0].rpartition("/")[2].rpartition(":")[0].removeprefix("device:"),
    }


def _code(cls: type) -> str:
    """A hash of the source files of the class and its bases, without the library's."""
    sha = hashlib.sha256()
    for one in cls.__mro__:
        if one.__module__.partition(".")[0] not in ("modetrain", "builtins"):
            try:
                sha.update(inspect.getsource(inspect.getmodule(one) or one).encode())
            except (OSError, TypeError):  # defined in a console
                sha.update(one.__qualname__.encode())
    return sha.hexdigest()[:12]


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
