"""`modetrain.run(...)`: a run of the command line, from Python.

result = modetrain.run("recipe=mnist", "mode=xla", steps=200)
result.history.train[200]["loss"]
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modetrain.errors import ConfigError
from modetrain.files import paths, quoting
from modetrain.mode import Mode

if TYPE_CHECKING:
    from modetrain.callback import Callback
    from modetrain.recipe import Recipe
    from modetrain.training.history import History

_DO = ("train", "evaluate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run made.

    Attributes:
      history: metrics by step, and the results of evaluations.
      results: the latest means: `train` over the last 100 steps, `eval` over all evaluation examples.
      recipe: the trained recipe.
      folder: the run folder.
      status: `completed` or `stopped`.
      stopped_early: why a callback ended a completed run before its last step, or None.
    """

    history: History
    results: dict[str, dict[str, float]]
    recipe: Recipe
    folder: Path
    status: str
    stopped_early: str | None = None


def run(*words: str, callbacks: Sequence[Callback] = (), **keys: Any) -> RunResult:
    """Does what `python -m modetrain WORDS` does, in this process; raises and never exits.

    Signals reach the run in the main thread alone. `conf/` and `recipes/` of the current folder are found as on the
    command line.

    Args:
      words: overrides, such as `"mode=xla"`.
      callbacks: called after those of the configuration.
      keys: overrides as keywords: `steps=200`, `**{"optimizer.learning_rate": 0.1}`.

    Raises:
      ConfigError: the configuration cannot run.
      Exception: what the run failed with, as it was raised; its text for a person is in `error.txt` of the run folder.
    """
    words = (*words, *(quoting.override(key, value) for key, value in keys.items()))
    from modetrain.app import check
    from modetrain.config import arguments, resumed

    line = resumed.expand(arguments.CommandLine(overrides=words), Path.cwd())
    words, dirs = line.overrides, line.config_dirs
    settings = check.load(words, Path.cwd(), dirs)
    if settings.do not in _DO:
        raise ConfigError(
            f'modetrain.run("do={settings.do}"): run trains and evaluates. Call modetrain.compare or modetrain.inspect, or type '
            f"the command line: python -m modetrain do={settings.do} ..."
        )
    if settings.mode.strategy == "multiworker":
        raise ConfigError(
            'modetrain.run("mode=multiworker"): several processes train together, and the command line starts them. Type '
            "python -m modetrain mode=multiworker ..."
        )
    _set_environment(settings.mode)
    paths.temporary_file().close()
    from modetrain.app import session  # these import TensorFlow, which reads the environment once
    from modetrain.tools.inspect_command import TOOLS

    tools = dataclasses.replace(TOOLS, callbacks=lambda settings: [*TOOLS.callbacks(settings), *callbacks])
    outcome = session.run(settings, tools=tools, check=lambda: check.code(words, Path.cwd(), dirs))
    if outcome.error is not None:
        raise outcome.error
    if outcome.trainer is None:
        raise ConfigError(
            f"run_dir={outcome.folder}: already finished ({settings.steps} steps). Pass a larger steps= to continue."
        )
    trainer = outcome.trainer
    return RunResult(
        history=trainer.history,
        results=trainer.results,
        recipe=trainer.recipe,
        folder=outcome.folder,
        status=trainer.status,
        stopped_early=trainer.stopped_early,
    )


def _set_environment(mode: Mode) -> None:
    """Sets what TensorFlow reads as it is imported.

    Raises:
      ConfigError: TensorFlow is imported already, and the mode cannot keep its promise without these variables.
    """
    wrong = [f"{name}={value}" for name, value in mode.environment().items() if os.environ.get(name) != value]
    if "tensorflow" in sys.modules and mode.strict and wrong:
        raise ConfigError(
            f"mode.strict=true: TensorFlow is imported already, and strict needs {' '.join(wrong)} before that. Set it in the "
            "environment, or call modetrain.run before anything imports TensorFlow."
        )
    mode.set_environment()
