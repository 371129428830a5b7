"""What inspection costs: at the start of a run, as a share of tracing and compiling, and the guards, per step.

    python benchmarks/inspection.py --rounds 5 --steps 400

Each measurement is taken in turn with and without, so that a slow moment of the machine hits both sides; what is printed are
medians and the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import tensorflow as tf

from modetrain.data.dataset import Data
from modetrain.data.sources import load as sources
from modetrain.engine.batching import BatchSharding
from modetrain.engine.optimizer import Optimizer
from modetrain.engine.program import Program
from modetrain.mode import Mode
from modetrain.recipe import Info
from modetrain.settings import DataSettings, OptimizerSettings
from modetrain.tools.inspect.detectors.stale_state import StaleStateDetector
from modetrain.tools.inspect.startup_check import StartupCheck
from recipes import models
from recipes.mnist import Digits

MODELS = {"mlp": models.mlp, "cnn": models.cnn}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--models", default="mlp,cnn")
    options = parser.parse_args(argv)
    print(f"{'':28}{'without':>12}{'with':>12}{'ratio':>9}")
    for name in options.models.split(","):
        data = Data(
            sources.load(DataSettings(name="mnist", source="bundled")),
            _settings(),
            seed=0,
            sharding=BatchSharding(),
        )
        block = next(data.train_blocks(0, 20))
        for compile_ in ("graph", "xla"):
            first = {on: functools.partial(_first_call, name, compile_, block, inspected=on) for on in (False, True)}
            _print(f"{name} {compile_}: first call, s", _in_turn(first, options.rounds))
        guarded = {on: _windows(name, block, guards=on, steps=options.steps) for on in (False, True)}
        _print(f"{name} xla: guards, ms a step", _in_turn(guarded, options.rounds))
        recipe = _recipe(name)
        watch = StaleStateDetector(recipe)
        spent = statistics.median(_timed(watch.find_changed) for _ in range(50))
        print(f"{name}: a look for stale Python {1e3 * spent:.2f} ms")


def _settings() -> DataSettings:
    return DataSettings(name="mnist", source="bundled", batch_size=32)


def _recipe(name: str) -> Digits:
    keras.utils.set_random_seed(0)
    chosen = OptimizerSettings(name="adam", learning_rate=1e-3)
    info = Info(
        image_shape=(28, 28, 1), classes=10, train_examples=4000, eval_examples=1000, batch_size=32, steps=100, seed=0
    )
    build = MODELS[name]
    return Digits(
        model=build, optimizer=lambda v, **c: Optimizer(v, dataclasses.replace(chosen, **c), steps=100), info=info
    )


def _first_call(name: str, compile_: str, block, *, inspected: bool) -> float:
    recipe = _recipe(name)
    mode = Mode(name=compile_, compile=compile_)
    program = Program(recipe.run_train_step, mode, state=recipe.state)
    if inspected:
        program.observe = StartupCheck(recipe, mode).observer("train_step")
    return _timed(lambda: program(block, 0, 1))


def _windows(name: str, block, *, guards: bool, steps: int) -> Callable[[], float]:
    recipe = _recipe(name)
    program = Program(recipe.run_train_step, Mode(name="xla", compile="xla", guards=guards), state=recipe.state)
    program(block, 0, block.length)

    def window() -> float:
        calls = max(1, steps // block.length)
        return 1e3 * _timed(lambda: [program(block, 0, block.length) for _ in range(calls)]) / (calls * block.length)

    return window


def _in_turn(measures: Mapping[bool, Callable[[], float]], rounds: int) -> list[tuple[float, float]]:
    found = []
    for number in range(rounds + 1):
        order = (False, True) if number % 2 else (True, False)
        taken = {on: measures[on]() for on in order}
        found.append((taken[False], taken[True]))
    return found[1:]  # the first round warms up


def _print(title: str, rounds: Sequence[tuple[float, float]]) -> None:
    without, with_ = (statistics.median(one) for one in zip(*rounds, strict=True))
    ratio = statistics.median(on / off for off, on in rounds)
    print(f"{title:28}{without:12.3f}{with_:12.3f}{ratio:9.3f}", flush=True)


def _timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
