"""What the steps of a variant did: plain arrays and texts, which travel between processes.

Imports no TensorFlow: the process that compares them does without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modetrain.diagnostics.location import Location
from modetrain.tools.compare import tolerance

State = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepError:
    """What a step raised.

    Attributes:
      type, message: of the exception.
      place: the user's line that it came from.
      advice: a sentence for what is often the cause, or None.
    """

    type: str
    message: str
    place: Location | None = None
    advice: str | None = None

    def __str__(self) -> str:
        first = self.message.strip().splitlines()[0] if self.message.strip() else ""
        return f"{self.type}: {first}" if not first.startswith(self.type) else first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observation:
    """One step.

    Attributes:
      metrics: means over the batch of what the step returned, and the gradient norm.
      state: every variable after the step.
      error: what it raised; then the rest is empty.
    """

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    state: State = dataclasses.field(default_factory=dict)
    error: StepError | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateEntry:
    """What one entry of the state is.

    Attributes:
      label: its name for people: `dense/kernel`, `mean of dense/kernel`.
      kind: `variable` (trained), `slot` (an optimizer's), `state` (anything else).
      gradient: how a gradient is computed from this slot: (name of the gradient, factor of the old value, factor of the new
        value); None for anything but a first moment.
    """

    label: str
    kind: str
    gradient: tuple[str, float, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """One tensor to compare after a step.

    Attributes:
      kind: `metric`, `gradient`, or an entry's kind.
      value: what is compared: of variables and slots the change, since a wrong update is small next to the value.
      after: the value after the step, for people to read; of metrics and gradients the same as `value`.
      dtype: of the tensor.
      spacing: of the numbers that it was stored as.
    """

    kind: str
    value: np.ndarray
    after: np.ndarray
    dtype: str
    spacing: np.ndarray | float = 0.0


def quantities(before: State, observation: Observation, layout: Mapping[str, StateEntry]) -> dict[str, Quantity]:
    """Everything that is compared after a step, by label: metrics first, then gradients, variables, slots, the rest."""
    found: dict[str, Quantity] = {}
    # A step that makes variables each time has some that nothing is known of.
    layout = {name: layout.get(name) or StateEntry(label=name, kind="state") for name in observation.state}
    for name, mean in observation.metrics.items():
        value = np.asarray(mean, np.float64)
        found[name] = Quantity(kind="metric", value=value, after=value, dtype="float32")
    for name, after in observation.state.items():
        gradient = layout[name].gradient
        if gradient is not None:
            label, old, new = gradient
            value = old * before[name].astype(np.float64) + new * after.astype(np.float64)
            step = abs(new) * tolerance.spacing(after)
            found[label] = Quantity(kind="gradient", value=value, after=value, dtype=after.dtype.name, spacing=step)
    for kind in ("variable", "slot", "state"):
        for name, after in observation.state.items():
            if layout[name].kind == kind:
                value = after
                spacing: np.ndarray | float = 0.0
                if after.dtype.kind == "f" or after.dtype.name == "bfloat16":
                    value = after.astype(np.float64) - before.get(name, np.zeros([])).astype(np.float64)
                    spacing = tolerance.spacing(after)
                dtype = after.dtype.name
                found[layout[name].label] = Quantity(kind=kind, value=value, after=after, dtype=dtype, spacing=spacing)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImpureStep:
    """A step that gave other numbers when it was repeated.

    Attributes:
      step: which, from 0.
      tensors: what differed.
    """

    step: int
    tensors: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times:
    """The speed of a variant.

    Attributes:
      compile_s: tracing and compiling.
      first_step_ms: the first step after that.
      step_ms: `p50` and `p90` of later steps.
      examples_per_s: at the median.
      steps_per_call: steps in each call that was timed.
      traces: how often the step was traced.
      peak_memory_mb: the most memory that its process has held, TensorFlow included; None where variants share a process.
      all_reduce: the cost of means over replicas; None on one device.
    """

    compile_s: float
    first_step_ms: float | None
    step_ms: Mapping[str, float] | None
    examples_per_s: float | None
    steps_per_call: int
    traces: int
    peak_memory_mb: float | None = None
    all_reduce: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariantReport:
    """What a variant found besides its steps, which are in the store as `<variant>/<number>`.

    Attributes:
      steps: how many steps are in the store.
      effective: what took effect of the mode.
      layout: what each entry of the state is.
      compute_dtype: the dtype that most of the step computes in.
      error: what building or compiling raised.
      time: None where it could not be measured.
      drift: per loss its values in a run that is left alone from the first state on; of the reference, of a run whose weights
        are moved by a rounding error at the start.
      distance: how far the weights of that run are from the reference's after each step, relative to how far those have
        moved from the start.
      notes: anything else.
      narrow: of a variant in float64, by dtype the user's first line that computes in less.
    """

    steps: int
    effective: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layout: Mapping[str, StateEntry] = dataclasses.field(default_factory=dict)
    compute_dtype: str = "float32"
    error: StepError | None = None
    time: Times | None = None
    drift: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    distance: Sequence[float] = ()
    notes: tuple[str, ...] = ()
    narrow: Mapping[str, Location] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessDeath:
    """A process that died before its task was done.

    Attributes:
      how: `SIGSEGV`, or `exit code 3`, or a sentence on which of several workers failed first.
      phase: what it was doing.
      tail: what it printed last.
      place: the user's line that it was in.
    """

    how: str
    phase: str
    tail: str = ""
    place: Location | None = None
