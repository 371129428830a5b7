"""Makes the figures of what `Sum` has added up: numbers, images and texts by name."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from modetrain.engine.metrics import Layout
from modetrain.engine.values import Figure

log = logging.getLogger(__name__)
_refused: set[str] = set()  # what has been logged


def summarize(recipe: Any, layout: Layout, sums: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """The figures of merged sums; what is none is logged once and left out.

    Args:
      recipe: its `summarize` gets the sums that have no function of their own.
      layout: of the step that returned the sums.
      sums: merged, by name.
    """
    if not sums:
        return {}
    found: dict[str, Figure] = {}
    rest = {}
    for spec in layout.sums:
        if spec.summarize is None:
            rest[spec.name] = sums[spec.name]
            continue
        with _named_error(f"the function that summarizes the Sum {spec.name!r}", {spec.name: sums[spec.name]}):
            made = spec.summarize(sums[spec.name])
        found |= dict(_named(spec.name, made) if isinstance(made, Mapping) else [(spec.name, made)])
    if rest:
        owner = f"{type(recipe).__name__}.summarize"
        with _named_error(owner, rest):
            made = recipe.summarize(rest)
        if not isinstance(made, Mapping):
            _say(f"{owner} returned a {type(made).__name__}; expected are figures by name")
            made = {}
        found |= made
        if not made:  # a number by itself is a figure
            found |= {name: float(value) for name, value in rest.items() if value.ndim == 0}
    return {
        name: figure for name, figure in ((n, _figure(n, f, layout)) for n, f in found.items()) if figure is not None
    }


def numbers(figures: Mapping[str, Figure]) -> dict[str, float]:
    """Those of the figures that are numbers."""
    return {name: figure for name, figure in figures.items() if isinstance(figure, float)}


@contextlib.contextmanager
def _named_error(owner: str, given: Mapping[str, np.ndarray]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        shapes = ", ".join(f"{name}: {value.shape}" for name, value in given.items())
        error.add_note(f"modetrain: failed in {owner}, which got the sums {{{shapes}}}")
        raise


def _named(name: str, made: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for part, figure in made.items():
        yield (f"{name}/{part}" if part else name), figure


def _figure(name: str, given: Any, layout: Layout) -> Figure | None:
    if name in layout.names:
        _say(f"summarize returned `{name}`, which the step returns as a mean already: give one of them another name")
        return None
    if isinstance(given, str):
        return given
    value = np.asarray(given)
    if value.ndim == 0 and value.dtype.kind in "biuf":
        if not math.isfinite(value):
            _say(f"summarize made `{name}` {float(value)}")
        return float(value)
    if value.ndim in (2, 3) and value.dtype.kind in "biuf":
        return value
    _say(
        f"summarize returned `{name}`, a {type(given).__name__} of shape {value.shape}: expected is a number, an image or a text"
    )
    return None


def _say(what: str) -> None:
    if what not in _refused:
        _refused.add(what)
        log.warning(what)
