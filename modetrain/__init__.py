"""modetrain: a TensorFlow training loop with switchable execution modes.

    python -m modetrain recipe=mnist mode=xla steps=500

The public names are imported when they are first used, so that the command line answers without importing TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from modetrain.version import VERSION

if TYPE_CHECKING:
    from modetrain.callback import Callback as Callback
    from modetrain.data.mixture import mixture as mixture
    from modetrain.data.source import Splits as Splits
    from modetrain.engine.optimizer import Optimizer as Optimizer
    from modetrain.engine.values import Sum as Sum
    from modetrain.engine.values import Weighted as Weighted
    from modetrain.errors import ConfigError as ConfigError
    from modetrain.mode import Mode as Mode
    from modetrain.recipe import Info as Info
    from modetrain.recipe import Recipe as Recipe
    from modetrain.schema import Bounds as Bounds
    from modetrain.schema import Length as Length
    from modetrain.settings import OptimizerSettings as OptimizerSettings
    from modetrain.settings import Settings as Settings
    from modetrain.tools.api import build as build
    from modetrain.tools.api import inspect as inspect
    from modetrain.tools.compare.comparison import Comparison as Comparison
    from modetrain.tools.compare.in_process import compare as compare
    from modetrain.tools.run import RunResult as RunResult
    from modetrain.tools.run import run as run
    from modetrain.trainer import Trainer as Trainer

__version__ = VERSION

_MODULES = {
    "Bounds": "modetrain.schema",
    "Callback": "modetrain.callback",
    "Comparison": "modetrain.tools.compare.comparison",
    "ConfigError": "modetrain.errors",
    "Info": "modetrain.recipe",
    "Length": "modetrain.schema",
    "Mode": "modetrain.mode",
    "Optimizer": "modetrain.engine.optimizer",
    "OptimizerSettings": "modetrain.settings",
    "Recipe": "modetrain.recipe",
    "RunResult": "modetrain.tools.run",
    "Settings": "modetrain.settings",
    "Splits": "modetrain.data.source",
    "Sum": "modetrain.engine.values",
    "Trainer": "modetrain.trainer",
    "Weighted": "modetrain.engine.values",
    "build": "modetrain.tools.api",
    "compare": "modetrain.tools.compare.in_process",
    "inspect": "modetrain.tools.api",
    "mixture": "modetrain.data.mixture",
    "run": "modetrain.tools.run",
}
__all__ = [
    *("Bounds", "Callback", "Comparison", "ConfigError", "Info", "Length", "Mode", "Optimizer", "OptimizerSettings"),
    *("Recipe", "RunResult", "Settings", "Splits", "Sum", "Trainer", "Weighted"),
    *("__version__", "build", "compare", "inspect", "metrics", "mixture", "run"),
]


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("modetrain.metrics")
    if name not in _MODULES:
        raise AttributeError(f"module 'modetrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
