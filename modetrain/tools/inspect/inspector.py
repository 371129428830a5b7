"""Collects all the evidence on a recipe: `Inspector(recipe, batches, ...).find()`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from modetrain.diagnostics.location import Location
from modetrain.engine.devices import Replicas
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.tools.inspect.detectors import (
    between_steps,
    input_pipeline,
    operations,
    process_dependent,
    retraces,
    split_batch,
    step_results,
    traces,
    unrolled_loops,
)
from modetrain.tools.inspect.detectors import (
    replicas as replica_detector,
)
from modetrain.tools.inspect.finding import Finding, is_waived, merge_evidence
from modetrain.tools.inspect.inspected_step import Batch, Concrete, InspectedStep
from modetrain.tools.inspect.python_state import lookup_tables
from modetrain.tools.inspect.python_state.reachable import find_reachable
from modetrain.tools.inspect.python_state.snapshot import restore_python_state, restore_seed

METHODS = ("train_step", "eval_step")
# Findings that change no number: what prints or waits, what changes between steps, and what is in the graph.
_SAME_NUMBERS = ("MT101", "MT102", "MT104", "MT4", "MT501", "MT504", "MT505", "MT506", "MT708")
_KEEPS_SYMBOLS = {"MT203", "MT204"}
# By code the codes that say the same more exactly, at the same line.
_MORE_EXACT = {
    "MT304": {"MT301", "MT302", "MT303"},
    "MT303": {"MT301"},
    "MT301": {"MT206", "MT305"},
    "MT103": {"MT101", "MT102"},
    "MT206": {"MT305"},  # the variable is that of Keras's own generator, which is made on first use
}


@dataclasses.dataclass(frozen=True)
class Inspector:
    """Inspects a recipe.

    Attributes:
      recipe: whose steps are inspected.
      batches: global batches to trace and run them on.
      mode: how the steps would run.
      replicas: where.
      target: `graph`, `xla` or `tpu`.
      several: whether to report what goes wrong on several replicas, also where `replicas` is one device.
      notes: by method whose results on parts of a batch are averaged on one device too, what averages them.
      prints: whether tf.print counts, which XLA cannot compile.
      find_differing_line: finds where a traced step begins to compute something else; see `differing_line.py`.
      methods: which of a recipe's steps are inspected.
    """

    recipe: Recipe
    batches: Sequence[Batch]
    _: dataclasses.KW_ONLY
    mode: Mode
    replicas: Replicas
    target: str
    several: bool = False
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prints: bool = True
    find_differing_line: step_results.FindLine | None = None
    methods: Sequence[str] = METHODS

    def find(self) -> list[Finding]:
        """All findings, in the order of files and lines."""
        with restore_python_state(self.recipe), restore_seed():
            found = [*self._find_in_steps(), *input_pipeline.find(self.recipe, self.batches)]
        return [one for one in merge_evidence(found) if not is_waived(one)]

    def _find_in_steps(self) -> Iterator[Finding]:
        for method in self.methods:
            if getattr(type(self.recipe), method) is getattr(Recipe, method):
                continue
            step = InspectedStep(
                recipe=self.recipe,
                method=method,
                mode=self.mode,
                replicas=self.replicas,
                global_batches=self.batches,
            )
            with step.restore_variables():
                yield from self._find_in_step(step)

    def _find_in_step(self, step: InspectedStep) -> Iterator[Finding]:
        reachable = find_reachable(self.recipe, [step.method])
        with restore_python_state(self.recipe):
            traced = traces.trace_twice(step, reachable)
        if traced.concrete is not None:
            step = dataclasses.replace(step, tables=tuple(lookup_tables.find_written(traced.concrete.graph)))
        found = [*retraces.find(step), *traced.findings, *process_dependent.find(self.recipe, reachable, traced.ran)]
        found += between_steps.find(self.recipe, reachable, traced.ran)
        if traced.concrete is not None:
            found += operations.find(traced.concrete.graph, self.target, prints=self.prints)
            found += unrolled_loops.find(traced.concrete.graph, self.replicas.local)
            several = self.several or self.replicas.count > 1
            if several:
                found += replica_detector.find(step, reachable, traced)
            if step.method in self.notes and not (several and step.method == "train_step") and traced.is_repeatable:
                note = f"; {self.notes[step.method]}"
                found += split_batch.find(step, traced.concrete.graph, several=False, note=note)
        yield from _leave_out_less_exact(found)
        if _KEEPS_SYMBOLS & {one.code for one in found}:  # an eager step would fail at them
            return
        with restore_python_state(self.recipe):
            # What XLA cannot compile, and what may end the process, is not tried.
            is_compiled = self.target != "graph" and not any(one.code in ("MT504", "MT505") for one in found)
            compiled = traced.concrete if is_compiled else None
            of_eager, results = step_results.run_eagerly(step, self.target, compiled=compiled)
            yield from of_eager
            is_explained = any(not one.code.startswith(_SAME_NUMBERS) for one in found)
            if is_explained or of_eager or results is None or traced.concrete is None:
                return
            if differences := self._compare(step, traced.concrete, results):
                # Where two eager runs differ as well, tracing is not the cause.
                yield from list(step_results.compare_eager_runs(step, results)) or differences

    def _compare(
        self, step: InspectedStep, concrete: Concrete, results: Sequence[step_results.StepResult]
    ) -> list[Finding]:
        """Where the traced step computes something else, from the weights as they are or from others."""
        find_line = self.find_differing_line
        if found := list(
            step_results.compare_traced_run(step, concrete, results, self.target, find_differing_line=find_line)
        ):
            return found
        _, perturbed = step_results.run_eagerly(step, "graph", perturbed=True)
        if perturbed is None:
            return []
        return list(
            step_results.compare_traced_run(
                step, concrete, perturbed, self.target, perturbed=True, find_differing_line=find_line
            )
        )


def _leave_out_less_exact(found: Sequence[Finding]) -> Iterator[Finding]:
    """Leaves out what another finding at the same line says more exactly."""
    codes: dict[Location, set[str]] = {}
    for one in found:
        codes.setdefault(one.place, set()).add(one.code)
    for one in found:
        if not codes[one.place] & _MORE_EXACT.get(one.code, set()):
            yield one
