"""Puts all the evidence on a recipe together: `Inspector(recipe, batches, ...).findings()`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modetrain.diagnostics.location import Location
from modetrain.engine.devices import Replicas
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.tools.inspect.detectors import (
    between_steps,
    process_dependent,
    operations,
    input_pipeline,
    retraces,
    traces,
    unrolled_loops,
    step_results,
)
from modetrain.tools.inspect.detectors import replicas as sharing
from modetrain.tools.inspect.finding import Finding, merged, waived
from modetrain.tools.inspect.python_state.reachable import find_reachable
from modetrain.tools.inspect.python_state.snapshot import restore_python_state, restore_seed
from modetrain.tools.inspect.inspected_step import Batch, Concrete, InspectedStep

METHODS = ("train_step", "eval_step")
# What prints or waits, what others change between steps, and what is in the graph: a step computes the same for all that.
_SAME_NUMBERS = ("MT101", "MT102", "MT104", "MT4", "MT501", "MT504", "MT505", "MT506")


class Inspector:
    """Looks at a recipe.

    Args:
      recipe: whose steps are looked at.
      batches: global batches to trace and run them on.
      mode: how the steps would run.
      replicas: where.
      target: `graph`, `xla` or `tpu`.
      several: whether what goes wrong on several replicas counts too, whatever `replicas` is.
      prints: whether tf.print counts, which XLA cannot compile.
      first: finds where a traced step begins to compute something else, if nothing else tells; see `first_difference.py`.
      methods: which of a recipe's steps are looked at.
    """

    def __init__(
        self,
        recipe: Recipe,
        batches: Sequence[Batch],
        *,
        mode: Mode,
        replicas: Replicas,
        target: str,
        several: bool = False,
        prints: bool = True,
        first: step_results.FindLine | None = None,
        methods: Sequence[str] = METHODS,
    ):
        self._recipe = recipe
        self._batches = list(batches)
        self._mode = mode
        self._replicas = replicas
        self._target = target
        self._several = several or replicas.count > 1
        self._prints = prints
        self._first = first
        self._methods = methods

    def findings(self) -> list[Finding]:
        """Everything that is found, in the order of files and lines."""
        with restore_python_state(self._recipe), restore_seed():
            found = [*self._of_steps(), *input_pipeline.find(self._recipe, self._batches)]
        return [one for one in merge_evidence(found) if not is_waived(one)]

    def _of_steps(self) -> Iterator[Finding]:
        for method in self._methods:
            if getattr(type(self._recipe), method) is getattr(Recipe, method):
                continue
            steps = InspectedStep(
                recipe=self._recipe, method=method, mode=self._mode, replicas=self._replicas, whole=self._batches
            )
            with steps.restore_variables():
                yield from self._of_step(steps)

    def _of_step(self, steps: InspectedStep) -> Iterator[Finding]:
        reachable = find_reachable(self._recipe, [steps.method])
        with restore_python_state(self._recipe):
            seen = traces.trace_twice(steps, reachable)
        found = [*retraces.find(steps), *seen.findings, *process_dependent.find(self._recipe, reachable, seen)]
        found += between_steps.find(self._recipe, reachable, seen)
        if seen.concrete is not None:
            found += operations.find(seen.concrete.graph, self._target, prints=self._prints)
            found += unrolled_loops.find(seen.concrete.graph, self._replicas.local)
            if self._several:
                found += sharing.find(steps, reachable, seen)
        yield from _specific(found)
        if _keeps_symbols(found):  # an eager step would stumble over them
            return
        with restore_python_state(self._recipe):
            of_batches, outcomes = step_results.run_eagerly(steps, self._target)
            yield from of_batches
            if _explain(found) or of_batches or outcomes is None or seen.concrete is None:
                return
            if unlike := self._unlike(steps, seen.concrete, outcomes):
                # Is it tracing that makes the difference, or is no run of the step like another?
                yield from list(step_results.compare_eager_runs(steps, outcomes)) or unlike

    def _unlike(self, steps: InspectedStep, concrete: Concrete, outcomes: Sequence[step_results.StepResult]) -> list[Finding]:
        """What the traced step computes otherwise, from the weights as they are or from others."""
        if found := list(step_results.compare_traced_run(steps, concrete, outcomes, first=self._first)):
            return found
        _, perturbed = step_results.run_eagerly(steps, "graph", perturbed=True)
        return [] if perturbed is None else list(step_results.compare_traced_run(steps, concrete, perturbed, perturbed=True, first=self._first))


def _specific(found: Sequence[Finding]) -> Iterator[Finding]:
    """Leaves out what another finding at the same line says better."""
    better = {
        "MT304": ("MT301", "MT302", "MT303"),
        "MT303": ("MT301",),
        "MT301": ("MT206", "MT305"),
        "MT103": ("MT101", "MT102"),
        "MT206": ("MT305",),  # the variable is that of Keras's own generator, which is made on first use
    }
    codes: dict[Location, set[str]] = {}
    for one in found:
        codes.setdefault(one.place, set()).add(one.code)
    for one in found:
        if not codes[one.place] & set(better.get(one.code, ())):
            yield one


def _explain(found: Sequence[Finding]) -> bool:
    """Whether what was found may be why the traced step computes something else than the eager one."""
    return any(not one.code.startswith(_SAME_NUMBERS) for one in found)


def _keeps_symbols(found: Sequence[Finding]) -> bool:
    return any(one.code in ("MT203", "MT204") for one in found)
