"""A progress bar on a terminal: steps, loss, examples a second, time left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from modetrain.callback import Callback
from modetrain.engine.metrics import RunningMeans
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

    def on_train_begin(self, trainer):
        self._task = self._progress.add_task(
            f"mode={trainer.mode.name}", total=trainer.steps, completed=trainer.step, loss="tracing", rate=""
        )
        self._progress.start()

    def on_steps_end(self, trainer, metrics):
        means = RunningMeans.from_rows(metrics.names, metrics.values).means()
        spent = trainer.timer.read()
        rate = spent.steps * trainer.data.settings.batch_size / spent.busy_s if spent.busy_s else 0.0
        loss = next((f"{name} {value:.4f}" for name, value in means.items() if is_loss(name)), "")
        self._progress.update(self._task, completed=trainer.step, loss=loss, rate=f"{rate:,.0f} examples/s")

    def on_train_end(self, trainer):
        self._progress.stop()
