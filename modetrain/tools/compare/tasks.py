"""Does the tasks of a comparison with a variant, in whichever process it lives.

    report = perform(task, variant, store, reference="eager", reference_compile="eager")

Steps go to the store as they are made: a process that dies has left those before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from modetrain.diagnostics.location import Location
from modetrain.tools.compare import explain, lockstep, op_recorder, runner, speed, tolerance
from modetrain.tools.compare.observation import Observation, State, StateEntry, StepError, VariantReport
from modetrain.tools.compare.runner import Task
from modetrain.tools.compare.store import INITIAL, ResultStore
from modetrain.tools.compare.variant import Variant, describe_error
from modetrain.training.nonfinite import is_loss

Layout: TypeAlias = Mapping[str, StateEntry]
OnPhase = Callable[[str], None]
# Draws that are added to the first ones begin here.
_MORE_DRAWS = 1000


def perform(
    task: Task,
    variant: Variant,
    store: ResultStore,
    *,
    reference: str,
    reference_compile: str,
    timed: bool = True,
    on_phase: OnPhase = lambda phase: None,
) -> Any:
    """Does a task; see `Runner` for its result.

    Args:
      task: what to do.
      variant: with a recipe that has run no step; its state is another one afterwards.
      store: where the reference's steps are, and where new ones go.
      reference: name of the reference.
      reference_compile: its `mode.compile`.
      timed: whether the speed of a mode is measured.
      on_phase: called with what begins.
    """
    if task.kind not in (runner.REFERENCE, runner.MODE):
        lockstep.make_variables(variant, store.get(INITIAL))
    if task.kind == runner.RERUN:
        wide = task.change == "float64"
        return rerun_steps(variant, store, task.variant, reference, task.numbers, wide=wide)
    if task.kind == runner.NOISE:
        layout = store.get(f"{reference}/report").layout
        return lockstep.measure_noise(
            variant,
            store,
            reference,
            task.numbers,
            layout,
            draws=task.draws,
            first_draw=_MORE_DRAWS,
            dtype=task.dtype or variant.compute_dtype(),
        )
    if task.kind == runner.TRACING:
        return explain.explain_tracing(variant, task.numbers[0])
    if task.kind == runner.EXPLAIN:
        if task.mode == reference:
            return explain.explain_impurity(variant, store, reference, task.numbers[0])
        return explain.explain_difference(variant, store, reference, task.numbers[0], reference_compile)
    if task.kind == runner.REFERENCE:
        report = run_reference(variant, store, reference, draws=task.draws, timed=timed, on_phase=on_phase)
    else:
        report = run_mode(variant, store, task.variant, reference, timed=timed, on_phase=on_phase)
    store.put(f"{task.variant}/report", report)
    return report


def run_reference(
    variant: Variant, store: ResultStore, name: str, *, draws: int, timed: bool, on_phase: OnPhase
) -> VariantReport:
    """The reference's part: its steps, its speed, whether it repeats, its noise, and the drift that noise alone makes."""
    store.put(INITIAL, variant.read())
    layout = variant.layout()
    on_phase("compile")
    compile_s, error = _compile(variant)
    if error is not None:
        store.put(f"{name}/0", Observation(error=error))
        store.put(f"{name}/floors", {})
        return _report(variant, layout, steps=1, error=error)
    lockstep.complete_start(variant, store)  # compiling has traced the step
    variant.load(store.get(INITIAL))
    on_phase("steps")
    steps = lockstep.run_reference(variant, store, name)
    start, layout = store.get(INITIAL), variant.layout()
    whole = steps - (store.observation(name, steps - 1).error is not None)
    on_phase("speed")
    times = speed.measure(variant, start, compile_s) if timed and whole == variant.steps else None
    on_phase("repeat")
    store.put(f"{name}/impure", lockstep.repeat_steps(variant, store, name, steps, layout))
    on_phase("noise")
    dtype = variant.compute_dtype()
    floors = lockstep.measure_noise(variant, store, name, range(steps), layout, draws=draws, dtype=dtype)
    store.put(f"{name}/floors", floors)
    on_phase("drift")
    rng = np.random.default_rng(0)
    size = tolerance.epsilon(dtype)
    moved = {key: tolerance.perturb(array, size, rng) for key, array in start.items()}
    losses, distance = _drift(variant, store, name, moved, whole, layout)
    return _report(variant, layout, steps=steps, time=times, drift=losses, distance=distance)


def run_mode(
    variant: Variant, store: ResultStore, name: str, reference: str, *, timed: bool, on_phase: OnPhase
) -> VariantReport:
    """Another mode's part: the same steps from the reference's states, its speed, and how it drifts when left alone."""
    start = store.get(INITIAL)
    layout = variant.layout()
    own = variant.read()
    strange = [
        layout[key].label
        for key, value in own.items()
        if key in start and tolerance.measure_gap(value, start[key]).absolute > 0
    ]
    notes: tuple[str, ...] = ()
    if strange:
        notes = (f"first weights differ from {reference}'s (compared from {reference}'s): {', '.join(strange[:3])}",)
    on_phase("compile")
    variant.load(start)
    compile_s, error = _compile(variant)
    if error is not None:
        return _report(variant, layout, steps=0, error=error, notes=notes)
    lockstep.make_variables(variant, start)
    steps = store.get(f"{reference}/report").steps
    on_phase("steps")
    fine = lockstep.run_steps(variant, store, name, reference, range(steps))
    whole = steps - (store.observation(reference, steps - 1).error is not None)
    on_phase("speed")
    times = speed.measure(variant, start, compile_s) if timed and fine else None
    on_phase("drift")
    losses, distance = _drift(variant, store, reference, start, whole, layout)
    return _report(variant, layout, steps=steps, time=times, drift=losses, distance=distance, notes=notes)


def rerun_steps(
    variant: Variant, store: ResultStore, name: str, reference: str, numbers: Sequence[int], *, wide: bool
) -> VariantReport:
    """Runs some steps again from the reference's states; where they are in float64, also looks for lines that compute in less."""
    start, layout = store.get(INITIAL), variant.layout()
    variant.load(start)
    _, error = _compile(variant)
    if error is not None:
        return _report(variant, layout, steps=0, error=error)
    fine = lockstep.run_steps(variant, store, name, reference, numbers)
    narrow: Mapping[str, Location] = {}
    if fine and wide and variant.replicas.count == 1:
        narrow = op_recorder.find_narrow_lines(variant, numbers[0], start)
    return _report(variant, layout, steps=len(numbers), narrow=narrow)


def select_losses(metrics: Mapping[str, float]) -> list[str]:
    """The metrics that are losses; all but the gradient norm where no name says so."""
    named = [name for name in metrics if is_loss(name)]
    return named or [name for name in metrics if not name.startswith("grad_norm")]


def _report(variant: Variant, layout: Layout, **fields: Any) -> VariantReport:
    return VariantReport(
        effective=variant.describe_mode(), layout=layout, compute_dtype=variant.compute_dtype(), **fields
    )


def _compile(variant: Variant) -> tuple[float, StepError | None]:
    began = time.perf_counter()
    try:
        variant.program.prepare(variant.block)
    except Exception as error:
        return 0.0, describe_error(error)
    return (0.0 if variant.mode.compile == "eager" else time.perf_counter() - began), None


def _drift(
    variant: Variant, store: ResultStore, reference: str, start: State, steps: int, layout: Layout
) -> tuple[dict[str, list[float]], list[float]]:
    """Losses of a run that is left alone, and how far its weights are from the reference's after each step."""
    trained = [name for name, entry in layout.items() if entry.kind == "variable"]
    first = store.get(INITIAL)
    variant.load(start)
    losses: dict[str, list[float]] = {}
    distances = []
    for number in range(steps):
        observation = variant.observe(number)
        if observation.error is not None:
            break
        for name in select_losses(observation.metrics):
            losses.setdefault(name, []).append(observation.metrics[name])
        expected = store.observation(reference, number).state
        moved = _distance(expected, first, trained)
        distances.append(_distance(observation.state, expected, trained) / (moved or np.nan))
    return losses, distances


def _distance(one: State, other: State, names: Sequence[str]) -> float:
    squares = [np.square(one[name].astype(np.float64) - other[name].astype(np.float64)).sum() for name in names]
    return float(np.sqrt(np.sum(squares)))
