"""`modetrain.inspect(...)`: the same as `do=inspect`, on a recipe object and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from modetrain.engine.devices import Replicas
from modetrain.errors import did_you_mean
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.tools.inspect.detectors import first_difference
from modetrain.tools.inspect.finding import Finding, first_per_line
from modetrain.tools.inspect.inspector import Inspector
from modetrain.tools.inspect.inspected_step import Batch

_MODES = ("graph", "xla")
_KNOWN = ("graph", "xla", "tpu", "mirrored")


def inspect(
    recipe: Recipe | Callable[[], Recipe], batches: Iterable[Batch], modes: Sequence[str] | None = None
) -> list[Finding]:
    """Looks at a recipe as `do=inspect` does; variables and Python state are as before at the end.

    Args:
      recipe: a recipe, or a function that builds one, as `modetrain.build` returns it.
      batches: training batches as a step gets them: per feature an array or a tensor [examples, ...]. Two are enough; more
        show more of what depends on data.
      modes: what it shall run in: `graph`, `xla`, `tpu`, `mirrored`. By default graph and XLA, but for tf.print, which XLA
        cannot compile and graph can: name `xla` to be told of it.

    Returns:
      What was found, in the order of files and lines. Empty for a step that every one of these modes runs as written.

    Raises:
      ValueError: a mode has another name, or there are no batches.
      TypeError: the function builds no recipe.
    """
    if not isinstance(recipe, Recipe):
        recipe = recipe()
    if not isinstance(recipe, Recipe):
        raise TypeError(f"inspect was given what builds a {type(recipe).__name__}, not a modetrain.Recipe.")
    batches = list(batches)
    if not batches:
        raise ValueError("inspect was given no batches: there is no step to trace. Pass a list of dicts of arrays.")
    if isinstance(modes, str):
        modes = [modes]
    found: list[Finding] = []
    for name in modes or _MODES:
        if name not in _KNOWN:
            raise ValueError(
                f"modes={list(modes or ())}: {name!r} is not {', '.join(_KNOWN)}.{did_you_mean(name, _KNOWN)}"
            )
        compile_ = "xla" if name in ("xla", "tpu") else "graph"
        mode = Mode(name=compile_, compile=compile_, guards=False)
        target = compile_ if name == "mirrored" else name
        inspector = Inspector(
            recipe,
            batches,
            mode=mode,
            replicas=Replicas(),
            target=target,
            several=name == "mirrored",
            prints=modes is not None,
            first=first_difference.find_line,
        )
        found.extend(inspector.findings())
    return first_per_line(found)
