"""What tests share: a tiny data set, trainers on it, and real runs of the command line.

Small enough that a test can train in every mode: 40 examples of 4 x 4 pixels, models of a few units.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.forked import ForkedRun, forked

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also what takes many minutes: every combination, many kills")


def pytest_configure(config):
    # Traced graphs are long chains of cycles: a full collection among those of a thousand tests takes most of a minute.
    gc.set_threshold(700, 10, 10_000)
    # A shell that runs the tests in the background, or under nohup, has these ignored, and what they start inherits that.
    for signum, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, usual)


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    seen: collections.Counter = collections.Counter()
    for item in items:
        sample = item.get_closest_marker("sampled")
        case_of = item.nodeid.partition("[")[0]
        seen[case_of] += 1
        if "long" in item.keywords or (sample is not None and seen[case_of] > sample.args[0]):
            item.add_marker(pytest.mark.skip(reason="takes long: pytest --long"))


ROOT = Path(__file__).parent.parent
MODES = ("eager", "graph", "xla")


@pytest.fixture(params=MODES)
def mode(request) -> str:
    """Each mode in turn: what a test pins holds in all of them."""
    return request.param


# --- in this process -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def source():
    """40 training and 23 evaluation examples of 3 classes; `index` numbers them."""
    from modetrain.data.source import Source

    def split(count, seed):
        rng = np.random.default_rng(seed)
        return {
            "image": rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8),
            "label": rng.integers(0, 3, count).astype(np.int32),
            "index": np.arange(count, dtype=np.int32),
        }

    return Source(kind="folder", train=split(40, 1), evals={"": split(23, 2)}, facts={"classes": 3})


@pytest.fixture
def make_data(source):
    """Builds Data: `make_data(seed=1, prepare=..., batch_size=7)`, of the tiny source unless another is given."""
    from modetrain.data.dataset import Data
    from modetrain.settings import DataSettings

    def make(*, seed: int = 0, prepare=None, sharding=None, debug=False, source=source, **settings) -> Data:
        given = {"name": "tiny", "batch_size": 8, "eval_batch_size": 10, **settings}
        return Data(source, DataSettings(**given), seed=seed, prepare=prepare, sharding=sharding, debug=debug)

    return make


@pytest.fixture
def mlp():
    """Builds a small model with dropout; `mlp(dropout=0.0, units=0)` is a linear one."""
    import keras
    from keras import layers

    def builder(*, units: int = 5, dropout: float = 0.3, dtype=None, regularizer=None):
        def build(image_shape, classes):
            x = inputs = keras.Input(image_shape, dtype=dtype if dtype == "float64" else None)
            x = layers.Flatten(dtype=dtype)(x)
            if units:
                x = layers.Dense(units, activation="relu", dtype=dtype, kernel_regularizer=regularizer)(x)
            if dropout:
                x = layers.Dropout(dropout, dtype=dtype)(x)
            return keras.Model(inputs, layers.Dense(classes, dtype=dtype, kernel_regularizer=regularizer)(x))

        return build

    return builder


@pytest.fixture
def make_recipe(mlp):
    """Builds a recipe: `make_recipe(Digits, model=mlp(units=0), learning_rate=0.1, clip_norm=1.0)`.

    What is no argument of its own is a setting of the optimizer; the recipe's weights are a function of `seed`.
    """
    import keras

    from modetrain.engine.optimizer import Optimizer
    from modetrain.recipe import Info
    from modetrain.settings import OptimizerSettings
    from recipes.mnist import Digits

    def make(
        cls=Digits,
        *,
        model=None,
        seed=0,
        steps=10,
        batch_size=8,
        loss_scaling=False,
        nonfinite="stop",
        options=None,
        **settings,
    ):
        keras.utils.set_random_seed(seed)
        chosen = OptimizerSettings(**{"name": "sgd", "learning_rate": 0.5, **settings})

        def optimizer(variables, **changes):
            changed = dataclasses.replace(chosen, **changes)
            return Optimizer(variables, changed, steps=steps, loss_scaling=loss_scaling, nonfinite=nonfinite)

        info = Info(
            image_shape=(4, 4, 1),
            classes=3,
            train_examples=40,
            eval_examples=23,
            batch_size=batch_size,
            steps=steps,
            seed=seed,
        )
        return cls(model=model or mlp(), optimizer=optimizer, info=info, **(options or {}))

    return make


@pytest.fixture
def said():
    """The lines that the library logs, as the command line prints them."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record):
            prefix = f"{record.levelname}: " if record.levelno >= logging.WARNING else ""
            lines.append(f"{prefix}{record.getMessage()}")

    log, handler = logging.getLogger("modetrain"), Keep()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.removeHandler(handler)
    log.setLevel(level)


@pytest.fixture
def make_trainer(make_recipe, make_data, tmp_path, said):
    """Builds a trainer: `make_trainer("xla", Recipe, steps=5, callbacks=[...], data={...}, mode={...}, ema=0.9)`.

    What is no argument of its own goes to `make_recipe`. What is logged stays in `trainer.said`.
    """
    from modetrain.callback import Callback
    from modetrain.callbacks.flight_recorder import FlightRecorder
    from modetrain.engine.batching import BatchSharding
    from modetrain.engine.devices import Replicas
    from modetrain.mode import Mode
    from modetrain.trainer import Trainer

    own = ("folder", "nonfinite", "timer")

    def make(
        compile,
        cls=None,
        *,
        recipe=None,
        replicas=None,
        steps=10,
        step=0,
        seed=0,
        data=None,
        mode=None,
        callbacks=(),
        watch_every=0,
        command="",
        **given,
    ):
        batch_size = (data or {}).get("batch_size", 8)
        trainer_arguments = {name: given.pop(name) for name in own if name in given}
        replicas = replicas or Replicas()
        if recipe is None:
            classes = (cls,) if cls is not None else ()
            with replicas.scope():
                recipe = make_recipe(*classes, steps=steps, seed=seed, batch_size=batch_size, **given)
        more = []
        if watch_every:
            more.append(Callback())
            more[0].grad_norm_every = watch_every
        if command and not any(isinstance(callback, FlightRecorder) for callback in callbacks):
            more.append(FlightRecorder(keep=0, config={}, made_on={}, command=command))
        trainer = Trainer(
            recipe,
            make_data(seed=seed, **{"sharding": BatchSharding.over(replicas, recipe.micro_batches), **(data or {})}),
            mode=Mode(**{"name": compile, "compile": compile, **(mode or {})}),
            replicas=replicas,
            steps=steps,
            callbacks=[*callbacks, *more],
            **{"folder": tmp_path, **trainer_arguments},
        )
        if step:
            trainer.load_state({}, step=step)
        trainer.said = said
        return trainer

    return make


@pytest.fixture
def settings():
    """Builds Settings without a command line: `settings(resume="latest", run_dir=folder)`."""
    from modetrain.mode import Mode
    from modetrain.settings import DataSettings, OptimizerSettings, Settings

    def make(**given) -> Settings:
        plain = {
            **{"recipe_name": "mnist", "model_name": "mlp", "debug_name": None, "recipe": {}, "model": {}},
            **{"callbacks": {}, "do": "train", "steps": 7, "seed": 0, "run_dir": None, "resume": None, "command": ""},
            "data": DataSettings(name="tiny", batch_size=8),
            "optimizer": OptimizerSettings(name="sgd", learning_rate=0.5),
            "mode": Mode(name="graph", compile="graph"),
        }
        return Settings(**{**plain, **given})

    return make


@pytest.fixture
def recorder():
    """Makes callbacks that keep what they see: `recorder()`, or `recorder(wants=[3, 7])` to look at these steps.

    After training `calls` are the (first, last) steps of each call, `looks` the steps looked at, and `values(name)` is
    the mean of a metric per step (updates completed).
    """
    from modetrain.callback import Callback

    class Recording(Callback):
        def __init__(self, *, wants=(), every=None):
            super().__init__(every=every)
            self.wants = sorted(wants)
            self.calls: list[tuple[int, int]] = []
            self.looks: list[int] = []
            self.rows = []

        def next_step(self, step):
            later = [wanted for wanted in self.wants if wanted > step]
            return later[0] if later else super().next_step(step)

        def on_steps_end(self, trainer, rows):
            self.rows.append(rows)
            self.calls.append((rows.first, trainer.step))

        def on_step(self, trainer):
            self.looks.append(trainer.step)

        def values(self, name: str) -> dict[int, float]:
            found = {}
            for rows in self.rows:
                for n, (total, count) in enumerate(rows.values[:, rows.names.index(name)], rows.first + 1):
                    if count:
                        found[n] = float(total) / float(count)
            return found

    return Recording


@pytest.fixture
def scalars():
    """Reads event files: `scalars(folder)` is {tag: {step: value}}."""
    return read_scalars


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    import tensorflow as tf
    from tensorflow.core.util import event_pb2

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = event_pb2.Event.FromString(record.numpy())
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                if array.ndim == 0 and array.dtype.kind == "f":
                    found.setdefault(value.tag, {})[event.step] = float(array)
    return found


# --- in processes of their own ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run of the command line that has ended; `json` is its run.json as it left it."""

    folder: Path
    code: int
    out: str
    err: str
    json: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return self.json["results"]["state_digest"]

    @property
    def scalars(self) -> dict[str, dict[int, float]]:
        return read_scalars(self.folder)


class CommandLine:
    """Runs `python -m modetrain` in a folder that may hold a user's own recipes and callbacks."""

    def __init__(self, cwd: Path):
        self.cwd = cwd

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.cwd / name).parent.mkdir(parents=True, exist_ok=True)
            (self.cwd / name).write_text(text)

    def run(self, *words: str, folder: str | None = None, typed: str = "") -> Run:
        """Runs to the end, with `typed` on its standard input."""
        with forked([*words, *([f"run_dir={folder}"] if folder else [])], cwd=self.cwd, typed=typed) as process:
            return self._end(process, folder)

    def signal_after(self, step: int, signum: int, *words: str, folder: str) -> Run:
        """Sends a signal as soon as there is a checkpoint of `step` or later."""
        wanted = [self.cwd / folder / "checkpoints" / f"step-{n:08d}.npz" for n in range(step, step + 100)]
        with forked([*words, f"run_dir={folder}"], cwd=self.cwd) as process:
            while process.poll() is None and not any(path.exists() for path in wanted):
                time.sleep(0.005)
            process.send_signal(signum)
            return self._end(process, folder)

    def _end(self, process: ForkedRun, folder: str | None) -> Run:
        out, err = process.communicate(timeout=300)
        path = self.cwd / (folder or "")
        record = path / "run.json"
        kept = json.loads(record.read_text()) if record.exists() else {}
        return Run(folder=path, code=process.returncode, out=out, err=err, json=kept)


@pytest.fixture(scope="module")
def cli(tmp_path_factory) -> CommandLine:
    """The command line in a folder that the tests of a file share."""
    return CommandLine(tmp_path_factory.mktemp("cli"))


# A CNN with batch normalisation and dropout, augmented images, averaged weights and a schedule, all of it small.
TRAINING = (
    "recipe=mnist",
    "recipe.shift=2",
    "model.filters=[4,8]",
    "data.source=bundled",
    "data.batch_size=32",
    "data.eval_batches=2",
    "optimizer.schedule=cosine",
    "optimizer.warmup=4",
    "optimizer.ema=0.9",
    "steps=24",
    "callbacks.log.every=1",
    "callbacks.checkpoint.every=4",
)
TRAININGS = {
    "eager": ("mode=eager",),
    "graph": ("mode=graph",),
    "xla": ("mode=xla",),
    "eager again": ("mode=eager", "mode.steps_per_call=7"),
    "graph again": ("mode=graph", "mode.steps_per_call=7"),
    "xla again": ("mode=xla", "mode.steps_per_call=7"),
    "strict": ("mode=graph", "mode.strict=true"),
    "other seed": ("mode=graph", "seed=1"),
}


@pytest.fixture(scope="session")
def training() -> tuple[str, ...]:
    """The words of the training that `trainings` has run, but for its mode."""
    return TRAINING


@pytest.fixture(scope="session")
def trainings(tmp_path_factory) -> Callable[[str], Run]:
    """One training from the command line in several modes: `trainings("graph again")`, each run when first asked for."""
    line = CommandLine(tmp_path_factory.mktemp("trainings"))

    @functools.cache
    def training_in(name: str) -> Run:
        run = line.run(*TRAINING, *TRAININGS[name], folder=name.replace(" ", "_"))
        assert run.code == 0, f"{name}: {run.out}\n{run.err}"
        return run

    return training_in
