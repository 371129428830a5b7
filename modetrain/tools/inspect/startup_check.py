"""The short form of `inspect`: one line for each finding, at the start of a run.

It observes the one trace that is made anyway, so that it costs next to nothing (`benchmarks/inspection.py`), and reports only
what that one trace proves. `do=inspect` traces twice and runs the step. Where results on parts of a batch are averaged, it also
runs the step on a few examples: no trace tells a mean over examples from another number.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from modetrain.config import arguments
from modetrain.diagnostics import graph_ops, stack
from modetrain.engine import tf_setup
from modetrain.engine.devices import Replicas
from modetrain.engine.guards.step_guards import find_unguarded
from modetrain.engine.loop import Concrete
from modetrain.files.quoting import key_of
from modetrain.mode import Mode
from modetrain.recipe import Recipe
from modetrain.tools.inspect import findings_report
from modetrain.tools.inspect.detectors import input_pipeline, operations, split_batch, unrolled_loops
from modetrain.tools.inspect.detectors import replicas as replica_detector
from modetrain.tools.inspect.detectors.side_effects import CallRecorder
from modetrain.tools.inspect.detectors.traces import CODE_OF_CHANGE
from modetrain.tools.inspect.finding import Finding, is_waived, make_finding, merge_evidence
from modetrain.tools.inspect.inspected_step import Batch, InspectedStep
from modetrain.tools.inspect.python_state.diff import Change, PythonState, find_changes
from modetrain.tools.inspect.python_state.queue_uses import count_queue_uses
from modetrain.tools.inspect.python_state.reachable import Reachable, find_reachable
from modetrain.tools.inspect.python_state.source import find_change, start_of
from modetrain.trainer import Trainer

log = logging.getLogger(__name__)

_MOST_EXAMPLES = 64  # that a loss or metric is tried on
_KEYS_OF_THE_RUN = ("do", "run_dir", "resume", "stop_after")


class StartupCheck:
    """Observes the traces of a run.

    Args:
      recipe: the recipe.
      mode: of the run.
      command: the command line of the run.
      replicas: of the run; one device by default.
    """

    def __init__(
        self,
        recipe: Recipe,
        mode: Mode,
        command: str = "",
        replicas: Replicas | None = None,
    ):
        self._recipe = recipe
        self._mode = mode
        self._replicas = replicas or Replicas()
        self._command = command
        self._reported: set[tuple[str, int, str]] = set()

    def observer(self, method: str) -> Callable[[Callable[[], Concrete]], Concrete]:
        """Returns the function that `Program` calls to trace a step.

        Args:
          method: `train_step` or `eval_step`.
        """

        def observe(trace: Callable[[], Concrete]) -> Concrete:
            reachable = find_reachable(self._recipe, [method])
            state = PythonState.for_recipe(self._recipe, reachable)
            recorder = CallRecorder(reachable.functions, [vars(self._recipe)])
            concrete = None
            with count_queue_uses():
                before = state.snapshot()
                try:
                    with recorder:
                        concrete = trace()
                finally:
                    changes = find_changes(before, state.snapshot())
                    self._report(self._find(recorder, changes, reachable, concrete, method))
            if self._mode.guarded and (places := find_unguarded(concrete.graph)):
                listed = ", ".join(place.shown for place in places)
                log.info(
                    f"not guarded, because nothing but its result comes out of an XLA program inside the step: {listed}"
                )
            return concrete

        return observe

    def check_means(self, trainer: Trainer, *, evaluates: bool) -> None:
        """Reports a loss or metric that is one number for a batch and no mean over its examples, where parts are averaged.

        The step is run eagerly on a few examples, without an update. Whatever fails is left to the run to report.

        Args:
          trainer: has not trained.
          evaluates: whether the run evaluates.
        """
        batches: dict[str, Callable[[], Batch]] = {
            "train_step": lambda: trainer.data.batch(0),
            "eval_step": lambda: trainer.data.eval_batch(_MOST_EXAMPLES),
        }
        notes = notes_on_parts(trainer, evaluates=evaluates)
        for method, note in notes.items():
            with contextlib.suppress(Exception), tf_setup.precision(self._mode):
                batch = {name: value[:_MOST_EXAMPLES] for name, value in batches[method]().items()}
                step = InspectedStep(
                    recipe=self._recipe, method=method, mode=self._mode, replicas=Replicas(), global_batches=[batch]
                )
                several = method == "train_step" and self._replicas.count > 1
                found = list(split_batch.find_by_parts(step, batch, at_start=True, several=several, note=f"; {note}"))
                self._report(iter(found))

    def check_pipeline(self, batch: Mapping[str, Any]) -> None:
        """Reports draws of `prepare` that ignore its seed.

        Args:
          batch: examples as the source has them.
        """
        if self._recipe.prepares:
            self._report(iter(input_pipeline.find_draws(self._recipe, batch)))

    def _find(
        self,
        recorder: CallRecorder,
        changes: list[Change],
        reachable: Reachable,
        concrete: Concrete | None,
        method: str,
    ) -> Iterator[Finding]:
        kept = recorder.made_only_what_is_kept(self._recipe)
        for call in recorder.calls:
            if not (kept and call.code == "MT206"):
                yield make_finding(call.code, call.place, call.describe(), evidence="calls heard while tracing")
        drawn = any(call.code == "MT301" for call in recorder.calls)
        for change in changes:
            if _is_certain(change) and not (drawn and change.expression in ("random", "numpy.random")):
                start = start_of(getattr(type(self._recipe), method))
                place = find_change(change.expression, reachable.functions) or start
                code = CODE_OF_CHANGE[change.kind]
                yield make_finding(code, place, change.describe(), evidence="state before and after")
        if concrete is not None:
            yield from operations.find(concrete.graph, self._mode.compile)
            yield from unrolled_loops.find(concrete.graph, self._replicas.local)
            if self._replicas.count > 1 and method == "train_step":
                of_source = list(replica_detector.find_in_source(self._recipe, reachable))
                ran = {stack.of_op(op) for op in graph_ops.operations(concrete.graph)} if of_source else ()
                yield from (one for one in of_source if one.place in ran)

    def _report(self, findings: Iterator[Finding]) -> None:
        new = [one for one in merge_evidence(findings) if not is_waived(one) and one.key not in self._reported]
        self._reported |= {one.key for one in new}
        for one in new:
            log.log(logging.INFO if one.note else logging.WARNING, findings_report.format_line(one))
        if new and self._command:
            log.info("details with:")
            log.info(f"  {format_inspect_command(self._command)}")


def notes_on_parts(trainer: Trainer, *, evaluates: bool = True) -> dict[str, str]:
    """By method whose results on parts of a batch are averaged, what averages them."""
    found = {}
    parts, count = trainer.recipe.micro_batches, trainer.replicas.count
    over = [f"{parts} micro-batches (optimizer.accumulate={parts})"] * (parts > 1) + [f"{count} replicas"] * (count > 1)
    if over:
        found["train_step"] = f"averaged over {' and '.join(over)}"
    size = next((one.batch_size for one in trainer.data.evaluations.values()), 0)
    examples = max((one.examples for one in trainer.data.evaluations.values()), default=0)
    batches = -(-examples // size) if size else 0
    if evaluates and batches > 1:
        found["eval_step"] = f"averaged over the {batches} batches of an evaluation (data.eval_batch_size={size})"
    return found


def format_inspect_command(command: str) -> str:
    """The command line of a run with `do=inspect`, which has a run folder of its own and resumes nothing."""
    line = arguments.read(command)
    words = [word for word in line.overrides if key_of(word) not in _KEYS_OF_THE_RUN]
    return arguments.printed({"do": "inspect"}, words=words, config_dirs=line.config_dirs)


def _is_certain(change: Change) -> bool:
    """Whether a change would happen at each trace, and is not a constant that is computed on first use."""
    if change.kind in ("random", "iterator", "tensor", "cache"):
        return True
    if change.before is None or change.after is None:
        return False
    if change.kind == "container":
        return change.after.token[0] == "sequence"
    return change.kind == "plain" and _is_number(change.before.token) and _is_number(change.after.token)


def _is_number(token: object) -> bool:
    return isinstance(token, str) or (isinstance(token, tuple) and token[0] in ("int", "float"))
