"""What `model.compile` was given and a recipe does not use: said once, by name, when the recipe is made."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from modetrain.engine.variables import iter_attributes

log = logging.getLogger(__name__)
_told: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def tell_unused(recipe: Any) -> None:
    """Logs the optimizer and the metrics of each compiled model of a recipe."""
    for name, model in iter_attributes(recipe):
        if not isinstance(model, keras.Model) or not getattr(model, "compiled", False) or model in _told:
            continue
        _told.add(model)
        given = model.get_compile_config() or {}
        metrics = [*_names(given.get("metrics")), *_names(given.get("weighted_metrics"))]
        optimizer = getattr(model, "optimizer", None)
        unused = [f"optimizer ({type(optimizer).__name__})"] if optimizer is not None else []
        unused += [f"metrics ({', '.join(metrics)})"] if metrics else []
        if unused:
            advice = " Type optimizer= and its keys, or pass OptimizerSettings." if optimizer is not None else ""
            advice += " Return the metrics from train_step and eval_step." if metrics else ""
            log.info(
                f"{name} is compiled: minimize and apply do not use the {' and '.join(unused)} of compile.{advice}"
            )


def _names(given: Any) -> Iterator[str]:
    """The names of metrics as Keras serializes them: texts, functions and objects, in lists and dicts."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, Mapping) and "class_name" in given:
        config = given.get("config")
        yield config if isinstance(config, str) else (config or {}).get("name") or given["class_name"]
    elif isinstance(given, Mapping):
        for one in given.values():
            yield from _names(one)
    elif isinstance(given, (list, tuple)):
        for one in given:
            yield from _names(one)
