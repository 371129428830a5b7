"""A progress bar on a terminal: steps, loss, examples a second, time left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from modetrain.callback import Callback
from modetrain.engine.metrics import Means
from modetrain.training.nonfinite import is_loss


class ProgressBar(Callback):
    """Shows the run's progress on `console` while it trains.

    Args:
      console: the terminal.
    """

    def __init__(self, *, console: Console):
        super().__init__()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]} {task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = None

    def start(self, run):
        self._task = self._progress.add_task(
            f"mode={run.mode.name}", total=run.steps, completed=run.step, loss="tracing", rate=""
        )
        self._progress.start()

    def call(self, run, rows):
        means = Means.of(rows.names, rows.values).means()
        spent = run.clock.read()
        rate = spent.steps * run.data.settings.batch_size / spent.busy_s if spent.busy_s else 0.0
        loss = next((f"{name} {value:.4f}" for name, value in means.items() if is_loss(name)), "")
        self._progress.update(self._task, completed=run.step, loss=loss, rate=f"{rate:,.0f} examples/s")

    def end(self, run):
        self._progress.stop()
