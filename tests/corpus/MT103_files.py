"""MT103: touches files, processes or the network only while tracing."""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
from pathlib import Path

import tensorflow as tf

from tests.corpus import elsewhere
from tests.corpus.base import Tiny


class DumpsJson(Tiny):
    def train_step(self, batch):
        values = super().train_step(batch)
        json.dump({"a": 1}, open(os.devnull, "w"))  # expect MT103  # noqa: SIM115
        return values


class WritesTheEnvironment(Tiny):
    def losses(self, batch):
        os.environ["TINY_STEP"] = str(int(os.environ.get("TINY_STEP", "0")) + 1)  # expect MT103 MT201 MT202
        return super().losses(batch)


class ReportsToAFile(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.report = tempfile.TemporaryFile("w")  # noqa: SIM115

    def losses(self, batch):
        self.report.write("step\n")  # expect MT103
        return super().losses(batch)


class EnvironmentPhase(Tiny):
    """The phase is passed on through the environment."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        os.environ["CORPUS_PHASE"] = "0"

    def losses(self, batch):
        phase = int(os.environ["CORPUS_PHASE"])
        os.environ["CORPUS_PHASE"] = str(phase + 1)  # expect MT103
        return super().losses(batch) * (1 + phase)


class MarkerFile(Tiny):
    """A marker file says that the first batch was seen."""

    modes = ("graph",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.folder = tempfile.TemporaryDirectory()
        self.marker = pathlib.Path(self.folder.name) / "warm"

    def losses(self, batch):
        warm = self.marker.exists()  # expect MT103
        self.marker.touch()  # expect MT103
        return super().losses(batch) * (1.0 if warm else 0.1)


class ReadsJson(Tiny):
    def __init__(self, **given):
        super().__init__(**given)
        self.path = Path(tempfile.mkdtemp()) / "weights.json"
        self.path.write_text(json.dumps([1.0, 2.0, 0.5]))

    def losses(self, batch):
        return super().losses(batch) * tf.gather(elsewhere.weights_from(self.path), batch["label"])


class Listing(Tiny):
    def losses(self, batch):
        n = len(os.listdir("/tmp"))  # expect MT103
        return super().losses(batch) * n


class JsonState(Tiny):
    """The schedule's state is kept in a JSON file that the step rewrites."""

    def __init__(self, *, model, optimizer, info):
        super().__init__(model=model, optimizer=optimizer, info=info)
        self.path = pathlib.Path(tempfile.mkdtemp()) / "state.json"
        self.path.write_text(json.dumps({"scale": 1.0}))

    def train_step(self, batch):
        state = json.loads(self.path.read_text())
        scale = state["scale"]
        results = self.minimize(lambda: scale * self.losses(batch))
        self.path.write_text(json.dumps({"scale": 0.8 * scale}))  # expect MT103
        return results
