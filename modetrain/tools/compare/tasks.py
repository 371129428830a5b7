"""What is done with an arm, in whichever process it lives: the reference's part, and that of every other mode.

    report = lead(arm, shelf, "eager", draws=3)
    report = follow(arm, shelf, "xla", reference="eager")

Steps go to the shelf as they are made, so that a process that dies has left those before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from modetrain.tools.compare import lockstep, op_trace, speed, tolerance
from modetrain.tools.compare.observation import ArmReport, Entry, Seen, State, StepError, Times
from modetrain.tools.compare.store import INITIAL, Shelf
from modetrain.tools.compare.variant import Arm, described, described_mode
from modetrain.training.nonfinite import is_loss

Say = Callable[[str], None]
_Drifted: TypeAlias = tuple[dict[str, list[float]], list[float]]  # curves of losses; distances of weights


def silent(line: str) -> None:
    """Says nothing."""


def lead(arm: Arm, shelf: Shelf, name: str, *, draws: int, timed: bool = True, say: Say = silent) -> ArmReport:
    """The reference's part: its steps, its speed, whether it repeats, its noise, and the drift that noise alone makes.

    Args:
      arm: in the state that the comparison begins from.
      shelf: where steps go, as `<name>/<number>`.
      name: of the arm.
      draws: repetitions of each step that measure its noise.
      timed: whether to measure its speed.
      say: told what is being done.
    """
    start = arm.read()
    layout = arm.layout()
    say("compile")
    took, error = _compile(arm)
    shelf.put(INITIAL, start)
    if error is not None:
        shelf.put(f"{name}/0", Seen(error=error))
        shelf.put(f"{name}/floors", {})
        return ArmReport(steps=1, effective=described_mode(arm), layout=layout, error=error)
    arm.load(start)
    say("steps")
    steps = lockstep.lead(arm, shelf, name)
    whole = steps - (shelf.get(f"{name}/{steps - 1}").error is not None)
    say("speed")
    measured = speed.measure(arm, start, took) if timed and whole == arm.steps else None
    say("repeat")
    impure = lockstep.repeat(arm, shelf, name, steps, layout)
    shelf.put(f"{name}/impure", impure)
    say("noise")
    shelf.put(f"{name}/floors", lockstep.floors(arm, shelf, name, range(steps), layout, draws=draws))
    say("drift")
    rng = np.random.default_rng(0)
    size = tolerance.epsilon(arm.compute_dtype())
    moved = {key: tolerance.moved(array, size, rng) for key, array in start.items()}
    drifted = _drift(arm, shelf, name, moved, whole, layout)
    return _report(arm, steps, layout, measured, drifted)


def follow(
    arm: Arm,
    shelf: Shelf,
    name: str,
    reference: str,
    *,
    numbers: Sequence[int] | None = None,
    timed: bool = True,
    say: Say = silent,
) -> ArmReport:
    """Another mode's part: the same steps from the reference's states, its speed, and how it drifts when left alone.

    Args:
      arm: in any state.
      shelf: where the reference's steps are and this arm's go.
      name: of the arm.
      reference: name of the reference.
      numbers: which steps, for these alone and nothing else; None is everything.
      timed: whether to measure its speed.
      say: told what is being done.
    """
    start = shelf.get(INITIAL)
    layout = arm.layout()
    notes: tuple[str, ...] = ()
    own = arm.read()
    strange = [layout[key].label for key, value in own.items() if tolerance.gap(value, start[key]).absolute > 0]
    if strange and numbers is None:
        notes = (f"first weights differ from {reference}'s (compared from {reference}'s): {', '.join(strange[:3])}",)
    say("compile")
    arm.load(start)
    took, error = _compile(arm)
    if error is not None:
        return ArmReport(steps=0, effective=described_mode(arm), layout=layout, error=error, notes=notes)
    wanted = shelf.get(f"{reference}/report") if shelf.has(f"{reference}/report") else None
    if numbers is None:
        numbers = range(wanted.steps if wanted is not None else arm.steps)
    else:
        lockstep.follow(arm, shelf, name, reference, numbers)
        narrow, failed = None, any(shelf.get(f"{name}/{number}").error is not None for number in numbers)
        if arm.compute_dtype() == "float64" and arm.replicas.count == 1 and not failed:
            narrow = op_trace.narrow(arm, numbers[0], start)
        return ArmReport(steps=len(numbers), effective=described_mode(arm), layout=layout, narrow=narrow)
    say("steps")
    steps = lockstep.follow(arm, shelf, name, reference, numbers)
    whole = steps - (shelf.get(f"{reference}/{steps - 1}").error is not None)
    failed = any(shelf.get(f"{name}/{number}").error is not None for number in numbers)
    say("speed")
    measured = speed.measure(arm, start, took) if timed and not failed else None
    say("drift")
    drifted = _drift(arm, shelf, reference, start, whole, layout)
    return _report(arm, steps, layout, measured, drifted, notes)


def _report(
    arm: Arm,
    steps: int,
    layout: Mapping[str, Entry],
    time: Times | None,
    drifted: _Drifted,
    notes: tuple[str, ...] = (),
) -> ArmReport:
    drift, distance = drifted
    return ArmReport(
        steps=steps,
        effective=described_mode(arm),
        layout=layout,
        compute_dtype=arm.compute_dtype(),
        time=time,
        drift=drift,
        distance=distance,
        notes=notes,
    )


def _compile(arm: Arm) -> tuple[float, StepError | None]:
    began = time.perf_counter()
    try:
        arm.program.prepare(arm.block)
    except Exception as error:
        return 0.0, described(error)
    return (0.0 if arm.mode.compile == "eager" else time.perf_counter() - began), None


def losses(metrics: Mapping[str, float]) -> list[str]:
    """The metrics that are losses; all but the gradient norm where none is called so."""
    named = [name for name in metrics if is_loss(name)]
    return named or [name for name in metrics if not name.startswith("grad_norm")]


def _drift(arm: Arm, shelf: Shelf, reference: str, start: State, steps: int, layout: Mapping[str, Entry]) -> _Drifted:
    trained = [name for name, entry in layout.items() if entry.kind == "variable"]
    first = shelf.get(INITIAL)
    arm.load(start)
    curves: dict[str, list[float]] = {}
    distances = []
    for number in range(steps):
        seen = arm.step(number)
        if seen.error is not None:
            break
        for name in losses(seen.metrics):
            curves.setdefault(name, []).append(seen.metrics[name])
        wanted = shelf.get(f"{reference}/{number}").state
        distances.append(_length(seen.state, wanted, trained) / (_length(wanted, first, trained) or np.nan))
    return curves, distances


def _length(one: State, other: State, names: Sequence[str]) -> float:
    squares = [np.square(one[name].astype(np.float64) - other[name].astype(np.float64)).sum() for name in names]
    return float(np.sqrt(np.sum(squares)))
