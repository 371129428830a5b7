"""What is typed and what stands in conf/ becomes Settings, or is refused with the override to type instead."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modetrain.__main__ import main
from modetrain.config import arguments, resumed
from modetrain.config import load as config
from modetrain.config.targets import instantiate
from modetrain.errors import ConfigError
from modetrain.files.paths import install_recipes, shipped_dir
from modetrain.keys import KEYS, defaults, leaves

M = "recipe=mnist"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of a user's, which the command line is typed in."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def refused(capsys, words: list[str]) -> str:
    """What is printed for a wrong command line; fails if it is not answered as one."""
    code = main(words)
    out, err = capsys.readouterr()
    assert code == 2, f"exit code {code}, printed {out!r}"
    assert "Traceback" not in err
    assert "\n" not in out.strip(), "nothing was run but, where it is the user's own code, its import"
    assert all(line.startswith("modetrain: ") for line in err.splitlines())
    return err


# --- words -----------------------------------------------------------------------------------------------------------

WRONG_WORDS = [
    # no key=value
    (["mnist"], ["'mnist'", "recipe=mnist"]),
    (["graph", M], ["mode=graph"]),
    (["trian", M], ["do=train"]),
    (["gibberish"], ["expected key=value or a flag", "--help"]),
    (["recipe", "mnist"], ["which recipe", "mnist, segment", "recipe=mnist, without spaces"]),
    ([M, "steps", "=", "3"], ["a value is needed", "steps=3, without spaces"]),
    ([M, "=3"], ["no key before the ="]),
    ([M, "run_dir=a=b"], ["grammar", "quote it: 'run_dir=\"a=b\"'"]),
    ([M, "data.batch_size=[1"], ["data.batch_size=[1", "grammar"]),
    # flags
    ([M, "--multi-run"], ["Did you mean --multirun?"]),
    ([M, "--steps=3"], ["without dashes", "Did you mean steps=3?"]),
    ([M, "--learning-rate", "3"], ["Did you mean optimizer.learning_rate=3?"]),
    ([M, "--mode", "xla"], ["Did you mean mode=xla?"]),
    ([M, "--wat"], ["--wat", "no such flag"]),
    ([M, "--cfg", "jobs"], ["Type --cfg job"]),
    ([M, "--cfg"], ["a value is needed", "--cfg job"]),
    ([M, "-m=3"], ["takes no value"]),
    ([M, "--config-dir", "nowhere"], ["--config-dir nowhere", "there is no folder"]),
    # Hydra's own
    ([M, "hydra.run.dir=out"], ["Type run_dir="]),
    ([M, "hydra.ouput_subdir=x"], ["hydra.ouput_subdir=x", "no effect"]),
    ([M, "hydra/launcher=joblib"], ["only a multirun has it", "Type -m hydra/launcher=joblib"]),
    (["-m", M, "seed=1,2", "hydra/launcher=basc"], ["no such launcher", "Did you mean 'basic'?"]),
    ([M, "hydra.searchpath=[nowhere]"], ["nowhere", "there is no folder"]),
    ([M, "--config-name"], ["--config-name NAME"]),
    # recipes
    ([], ["recipe= is missing", "recipe=mnist"]),
    (["steps=3"], ["recipe= is missing"]),
    (["recipe=mnsit"], ["recipe=mnsit", "mnist, segment", "Did you mean recipe=mnist?"]),
    (["recipe="], ["recipe=:", "mnist, segment"]),
    ([M, "~recipe"], ["recipe is given twice"]),
    # groups
    ([M, "mode=grpah"], ["eager, graph, mirrored", "Did you mean mode=graph?"]),
    ([M, "mode=fast"], ["mode=fast", "eager, graph, mirrored", "Type for example mode="]),
    ([M, "modee=xla"], ["Did you mean mode=xla?"]),
    ([M, "modle=mlp"], ["Did you mean model=mlp?"]),
    ([M, "optimizer=sgdd"], ["Did you mean optimizer=sgd?"]),
    ([M, "debug=fsat"], ["Did you mean debug=fast?"]),
    ([M, "do=evalute"], ["Did you mean do=evaluate?"]),
    ([M, "mode=null"], ["a run needs one", "mode=eager"]),
    ([M, "~optimizer"], ["a run needs one", "adam, ", "sgd"]),
    ([M, "+mode=xla"], ["Type mode=xla"]),
    ([M, "mode=[eager,graph]"], ["Type -m mode=eager,graph"]),
    ([M, "mode=eager,graph"], ["Type -m mode=eager,graph"]),
    ([M, "steps=1,2"], ["Type -m steps=1,2", "'steps=\"1,2\"' if it is one value"]),
    ([M, "mode@x=graph"], ["Type mode=graph"]),
    ([M, "Mode=graph"], ["Did you mean mode=graph?"]),
    ([M, "recipe=mnist.yaml"], ["given twice"]),
    ([M, "callbacks=[default,mine]"], ["callbacks/mine.yaml"]),
    # keys
    ([M, "stepz=3"], ["stepz=3", "no key 'stepz'", "Did you mean steps=3?"]),
    ([M, "+stepz=3"], ["no key 'stepz'", "Did you mean steps=3?"]),
    ([M, "++stepz=3"], ["Did you mean steps=3?"]),
    ([M, "optimzer.learning_rate=0.1"], ["Did you mean optimizer.learning_rate=0.1?"]),
    ([M, "optimizer.learning_rat=0.1"], ["Did you mean optimizer.learning_rate=0.1?"]),
    ([M, "learning_rate=0.1"], ["Did you mean optimizer.learning_rate=0.1?"]),
    ([M, "lr=0.1"], ["Did you mean optimizer.learning_rate=0.1?"]),
    ([M, "batch_size=8"], ["Did you mean data.batch_size=8?"]),
    (
        [M, "epochs=3", "data.source=bundled"],
        ["3 epochs of 4,000 examples are 188 steps of 64. Type steps=188."],
    ),
    ([M, "trainer.max_epochs=3", "data.name=cifar10"], ["There are no epochs", "Type steps=STEPS."]),
    ([M, "every=3"], ["callbacks.log.every=3", "callbacks.evaluate.every=3"]),
    ([M, "data.quux=3"], ["There is data.name, data.source"]),
    ([M, "callbacks.logg.every=3"], ["Did you mean callbacks.log.every=3?"]),
    ([M, "callbacks.log={evry:3}"], ["'callbacks.log.evry'", "Did you mean callbacks.log.every=3?"]),
    ([M, "+callbacks.mine.every=3"], ["'callbacks.mine.every'", "callbacks.mine._target_"]),
    ([M, "~stepz"], ["~stepz", "Did you mean steps"]),
    ([M, "~mode.strict"], ["cannot be left out", "mode.strict="]),
    ([M, "~steps"], ["cannot be left out", "steps=1000"]),
    ([M, "data/name=mnist"], ["Did you mean data.name=mnist?"]),
    ([M, ".steps=3"], ["grammar", "Did you mean steps=3?"]),
    ([M, "~"], ["expected key=value"]),
    ([M, "callbacks.log=3"], ["callbacks.log is a section", "callbacks.log.every"]),
    ([M, "callbacks.log=[1]"], ["callbacks.log is a section"]),
    ([M, "steps=3", "steps=4"], ["steps=3 and steps=4", "given twice"]),
    ([M, "mode=eager", "mode=graph"], ["given twice"]),
    # values
    ([M, "steps=abc"], ["steps=abc", "a whole number of at least 1", "'abc'", "steps=1000"]),
    ([M, "steps=0"], ["at least 1", "not 0"]),
    ([M, "steps=-5"], ["at least 1", "not -5"]),
    ([M, "steps=1e3"], ["whole number", "steps=1000"]),
    ([M, "steps=true"], ["whole number", "not true"]),
    ([M, "steps=null"], ["whole number", "not null"]),
    ([M, "steps="], ["steps=:", "whole number"]),
    ([M, "mode.precision=bfloat16"], ["Did you mean mode.precision=mixed_bfloat16?"]),
    ([M, "mode.precision=bf16"], ["Did you mean mode.precision=mixed_bfloat16?"]),
    ([M, "mode.precision=float16"], ["Did you mean mode.precision=mixed_float16?"]),
    ([M, "mode.precision=fp16"], ["Did you mean mode.precision=mixed_float16?"]),
    ([M, "seed=1.5"], ["seed=1.5", "whole number", "seed=1."]),
    ([M, "seed=-1"], ["at least 0"]),
    ([M, "seed=99999999999"], ["at most"]),
    ([M, "steps=99999999999999999999"], ["at most"]),
    ([M, "data.batch_size=-1"], ["data.batch_size=-1", "at least 1"]),
    ([M, "optimizer.learning_rate=fast"], ["a number above 0", "'fast', which is a text"]),
    ([M, "optimizer.learning_rate=0"], ["above 0"]),
    ([M, "optimizer.learning_rate=nan"], ["a number above 0, not nan"]),
    ([M, "optimizer.learning_rate=inf"], ["a number above 0, not inf"]),
    ([M, "optimizer=sgd", "optimizer.momentum=1"], ["at least 0 and below 1"]),
    ([M, "optimizer.schedule=cos"], ["constant, cosine, linear"]),
    ([M, "optimizer.clip_norm=0"], ["above 0 or null"]),
    ([M, "mode.precision=float23"], ["mixed_bfloat16", "Did you mean mode.precision=float32?"]),
    ([M, "mode.compile=jit"], ["eager, graph, xla"]),
    ([M, "mode.strategy=mirored"], ["mode.strategy=mirored", "one_device", "Did you mean mode.strategy=mirrored?"]),
    ([M, "mode.replicas=2"], ["mode.replicas=2 with mode.strategy=one_device", "Type mode=mirrored mode.replicas=2"]),
    ([M, "mode=mirrored", "mode.replicas=0"], ["mode.replicas", "of at least 1"]),
    ([M, "mode=mirrored", "mode.replicas=3"], ["data.batch_size=64 with mode.replicas=3", "Type data.batch_size=63"]),
    ([M, "mode=mirrored", "mode.workers=2"], ["mode.workers=2", "Type mode=multiworker mode.workers=2"]),
    ([M, "mode=mirrored", "mode.devices=[]"], ["mode.devices", "a list of 1 or more"]),
    ([M, "mode=mirrored", "mode.devices=[0,0]"], ["mode.devices=[0, 0]", "names each once", "mode.devices=auto"]),
    ([M, "mode=mirrored", "mode.devices=gppu"], ["Did you mean mode.devices=gpu?"]),
    ([M, "mode=mirrored", "mode.devices=[0,1]", "mode.replicas=3"], ["Type mode.replicas=2"]),
    ([M, "mode.devices=[0,1]"], ["one device runs a step", "Type mode=mirrored"]),
    ([M, "mode.sync_batch_norm=false"], ["nothing to synchronise"]),
    ([M, "mode=graph", "mode.xla_unit=step"], ["XLA compiles nothing there", "mode.compile=xla"]),
    (
        [M, "mode=mirrored", "mode.compile=xla", "mode.replicas=2", "mode.devices=cpu", "mode.xla_unit=step"],
        ["only between GPUs"],
    ),
    ([M, "mode=multiworker", "mode.compile=xla", "mode.devices=cpu", "mode.xla_unit=step"], ["only between GPUs"]),
    ([M, "mode=tpu", "mode.tpu=local", "mode.xla_unit=step"], ["always the step"]),
    ([M, "-m", "mode=graph,multiworker"], ["neither TF_CONFIG nor Slurm nor Kubernetes"]),
    ([M, "mode=multiworker"], ["neither TF_CONFIG nor Slurm nor Kubernetes", "Type mode.workers=2"]),
    ([M, "mode=multiworker", "mode.workers=2", "--pdb"], ["--pdb with mode=multiworker"]),
    ([M, "mode=mirrored", "mode.replicas=1000"], ["1000 does not divide 64. Type mode.replicas=64."]),
    (
        [M, "mode=mirrored", "mode.replicas=500", "optimizer.accumulate=4"],
        ["2000 does not divide 64. Type mode.replicas=16."],
    ),
    (
        [M, "mode=mirrored", "mode.devices=cpu", "mode.replicas=100", "data.batch_size=100"],
        [
            "mode.replicas=100 on logical CPUs: a step is compiled for every replica",
            "Type mode.replicas=4; at most 64.",
        ],
    ),
    ([M, "mode=multiworker", "mode.workers=5"], ["data.batch_size=64 with mode.workers=5", "Type data.batch_size=65"]),
    (
        [M, "mode=multiworker", "mode.workers=2", "mode.restart_workers=3"],
        ["mode.restart_workers=3", "Type data.batch_size=66."],
    ),
    ([M, "mode=multiworker", "mode.replicas=2"], ["mode.replicas=2", "a replica is a GPU of a worker, or its CPU"]),
    ([M, "mode=tpu", "mode.compile=eager"], ["a TPU runs compiled programs only", "mode=eager"]),
    ([M, "mode=tpu", "mode.precision=float64"], ["Type mode.precision=float32"]),
    ([M, "mode.tpu=local"], ["only mode=tpu uses it", "Type mode=tpu mode.tpu=local"]),
    ([M, "mode.strict=1"], ["true or false", "mode.strict=true"]),
    ([M, "mode.strict=off"], ["true or false", "mode.strict=false"]),
    ([M, "mode.steps_per_call=0"], ["at least 1 or auto"]),
    ([M, "mode.steps_per_call=all"], ["at least 1 or auto", "'all'"]),
    ([M, "mode.name=../x"], ["mode.name=../x", "letters"]),
    ([M, "data.source=tdfs"], ["Did you mean data.source=tfds?"]),
    ([M, "data.image_size=32"], ["[height, width]", "data.image_size=[32,32]"]),
    ([M, "callbacks.log.every=0"], ["at least 1"]),
    ([M, "callbacks.checkpoint.keep=0"], ["at least 1"]),
    ([M, "run_dir=3"], ["a text", "run_dir=./3"]),
    ([M, "resume=1"], ["a text", "resume=./1"]),
    ([M, "stop_after=inf"], ["not inf, which has no end. Type for example stop_after=2h"]),
    ([M, "watchdog.after=-1"], ["a time such as 30s, 90m, 2h or 1h30m or 0", "watchdog.after=10m"]),
    ([M, "watchdog.after=inf"], ["not inf, which has no end"]),
    ([M, "resume=out/checkpoints/step-00000041.npz", "steps=20"], ["no such file or folder"]),
    ([M, "data=3"], ["data/3.yaml"]),
    ([M, "steps=${nothing}"], ["steps=${nothing}", "'nothing' not found"]),
    # several at once
    ([M, "steps=0", "seed=x"], ["steps=0", "seed=x"]),
    (
        [M, "stepz=3", "modle=mlp", "model.filter=[8]", "seed=x"],
        ["steps=3?", "model=mlp?", "model.filters=[8]?", "seed=x"],
    ),
    # combinations
    ([M, "mode=xla", "mode.strict=true"], ["bitwise", "Type mode=graph mode.strict=true"]),
    ([M, "mode.compile=xla", "mode.strict=true"], ["Type mode.compile=graph mode.strict=true"]),
    ([M, "debug=nan", "mode=xla"], ["do not compile under XLA", "Type debug=nan mode=graph"]),
    ([M, "check_numerics=true", "mode.compile=xla"], ["mode.compile=graph"]),
    ([M, "debug=nan", "mode.deterministic=true"], ["debug=nan with mode.d", "Type debug=nan mode.deterministic=false"]),
    ([M, "mode=tpu"], ["mode=tpu: neither mode.tpu= nor TPU_NAME", "Type mode.tpu=local"]),
    ([M, "optimizer.accumulate=3"], ["3 does not divide 64", "data.batch_size=63"]),
    ([M, "optimizer.accumulate=100"], ["data.batch_size=100"]),
    ([M, "optimizer.warmup=50", "steps=50"], ["before the learning rate has risen", "optimizer.warmup=5"]),
    ([M, "optimizer.momentum=0.5"], ["only sgd uses it", "optimizer=sgd", "optimizer.momentum=0.0"]),
    ([M, "optimizer=sgd", "optimizer.beta_1=0.5"], ["only adam and adamw use it", "optimizer.beta_1=0.9"]),
    ([M, "optimizer=sgd", "optimizer.momentum=0", "optimizer.nesterov=true"], ["optimizer.momentum=0.9"]),
    ([M, "optimizer.schedule=constant", "optimizer.final_fraction=0.1"], ["only cosine and linear use it"]),
    ([M, "data.source=bundled", "data.name=fashion_mnist"], ["sample is of mnist", "data.source=tfds"]),
    ([M, "data.source=folder"], ["no folder to read", "data.path=FOLDER"]),
    (
        [M, "data.path=."],
        ["data.path=. with data.source=auto: only data.source=folder uses it", "Type data=folder data.path=."],
    ),
    ([M, "data.source=bundled", "data.dir=."], ["only auto and tfds use it"]),
    ([M, "data=folder"], ["data.path=FOLDER"]),
    ([M, "data=folder", "data.path=nowhere"], ["data.path=nowhere", "does not exist"]),
    ([M, "steps=50", "callbacks.profile.at=50"], ["after the run", "callbacks.profile.at=45"]),
    ([M, "steps=3", "callbacks.profile.at=1"], ["would end at step 6, after the run. Type steps=6."]),
    ([M, "steps=50", "callbacks.profile.at=48"], ["would end at step 53", "callbacks.profile.at=45"]),
    ([M, "callbacks.profile.steps=3"], ["callbacks.profile.at=50 too"]),
    ([M, "do=evaluate"], ["no weights", "resume=latest"]),
    ([M, "resume=latest"], ["no run in runs/mnist/graph"]),
    ([M, "do=evaluate", "resume=latest", "run_dir=nowhere"], ["do=evaluate resume=latest", "no such folder"]),
    ([M, "run_dir=/proc/run"], ["run_dir=/proc/run: nothing can be made in /proc", "Type run_dir= with a folder"]),
    ([M, "resume=nowhere"], ["resume=nowhere", "no such file or folder"]),
    # a preset and a mode, where the user typed none of the keys that do not go together
    (
        [M, "debug=rehearse", "mode=graph"],
        ["debug=rehearse with mode=graph: the preset sets mode.replicas=2", "Leave debug="],
    ),
    ([M, "debug=rehearse", "mode=multiworker"], ["the preset sets", "Leave debug=rehearse or mode=multiworker out."]),
    ([M, "debug=rehearse", "mode.strategy=one_device"], ["Leave debug=rehearse or mode.strategy=one_device out."]),
    ([M, "debug=rehearse", "mode=graph", "mode.replicas=3"], ["mode.replicas=3 with", "or leave mode.replicas out."]),
    # code that is named
    ([M, "recipe._target_=recipes.mnist.Digit"], ["has no 'Digit'", "Did you mean recipes.mnist.Digits?"]),
    ([M, "recipe._target_=recipes.mnits.Digits"], ["no module recipes.mnits", "recipes.mnist.Digits?"]),
    ([M, "recipe._target_=mnist.Digits"], ["Did you mean recipes.mnist.Digits?"]),
    ([M, "recipe._target_=os.system"], ["os can run commands", "a function of your own that calls os.system"]),
    ([M, "recipe._target_=nosuch.Thing"], ["there is no package nosuch in this environment"]),
    ([M, "recipe._target_=recipes.mnist"], ["is a module", "recipes.mnist.Digits"]),
    ([M, "model._target_=recipes.models.cnn.small"], ["is a function", "Type recipes.models.cnn."]),
    ([M, "+recipe._partial_=true"], ["Leave _partial_ out"]),
    ([M, "recipe._target_=3"], ["not the dotted path", "such as recipes.mnist.Digits"]),
    ([M, "recipe.smoothing=0.1"], ["type +recipe.smoothing=0.1"]),
    ([M, "+recipe.smoothing=0.1"], ["recipes.mnist.Digits has no argument 'smoothing'"]),
    ([M, "+recipe.model=x"], ["the run itself gives", "Leave it out"]),
    ([M, "model.filter=[8]"], ["Did you mean model.filters=[8]?"]),
    ([M, "+model.fliters=[8]"], ["recipes.models.cnn has no argument 'fliters'", "Did you mean model.filters?"]),
    ([M, "callbacks.x._target_=mine.X"], ["Type +callbacks.x._target_=mine.X to add it."]),
    ([M, "callbacks.x.every=3"], ["A callback of your own needs +callbacks.x._target_=MODULE.CLASS."]),
    ([M, "callbacks.every=3"], ["no key 'callbacks.every'"]),
    # what its annotations say that code takes
    ([M, "model.filters=8"], ["a list of 1 or more, each a whole number of at least 1, not 8", "model.filters=[8]"]),
    ([M, "model.filters=[a]"], ["not [a]. Type for example model.filters=[32,64]"]),
    ([M, "model.filters=[]"], ["a list of 1 or more"]),
    ([M, "model.dropout=high"], ["a number of at least 0 and below 1, not 'high', which is a text", "dropout=0.25"]),
    ([M, "model.dropout=1.5"], ["a number of at least 0 and below 1, not 1.5", "model.dropout=0.25"]),
    ([M, "model.dropout=null"], ["not null"]),
    ([M, "recipe.shift=-1"], ["recipe.shift=-1", "a whole number of at least 0, not -1", "recipe.shift=0"]),
    ([M, "recipe.shift=1.5"], ["a whole number", "recipe.shift=1."]),
    ([M, "model=mlp", "model.hidden=[0]"], ["a list, each a whole number of at least 1, not [0]", "hidden=[128]"]),
    ([M, "model=mlp", "model.hidden=abc"], ["a list", "'abc', which is a text"]),
    (["recipe=gan", "recipe.samples=0"], ["at least 1, not 0", "recipe.samples=16"]),
    (["recipe=gan", "recipe.discriminator_speed=-1"], ["above 0, not -1", "recipe.discriminator_speed=1.0"]),
    (["recipe=gan", "model.latent=0"], ["at least 1, not 0"]),
    # metrics that its text says it does not return
    ([M, "callbacks.checkpoint.best_is=min"], ["with callbacks.checkpoint.best=auto", "best=METRIC too"]),
    ([M, "callbacks.checkpoint.best=-x", "callbacks.checkpoint.best_is=max"], ["the sign says the opposite"]),
    ([M, "callbacks.checkpoint.best=acuracy"], ["recipes.mnist.Digits returns loss, accuracy", "best=accuracy?"]),
    # models that a recipe cannot train
    ([M, "model=null"], ["model=null: recipes.mnist.Digits builds a model", "Type model=cnn."]),
    ([M, "~model"], ["model=null: recipes.mnist.Digits builds a model"]),
    ([M, "model=gan"], ["trains one model, and recipes.models.gan makes several. Type model=cnn."]),
    (["recipe=gan", "model=cnn"], ["trains several models, and recipes.models.cnn makes one. Type model=gan."]),
    # splits that are known without TensorFlow
    ([M, "data.train_split=validation"], ["no split 'validation'; it has test, train", "data.train_split=train"]),
    ([M, "data.source=bundled", "data.eval_split=tset"], ["Did you mean 'test'? Type data.eval_split=test"]),
]


@pytest.mark.parametrize(("words", "expected"), WRONG_WORDS, ids=[" ".join(words) or "-" for words, _ in WRONG_WORDS])
def test_a_wrong_command_line_is_refused(folder, capsys, words, expected):
    err = refused(capsys, words)
    for part in expected:
        assert part in err


# Names of other libraries; what is proposed is a key with a value that it takes, or a sentence.
OTHER_NAMES = {
    "step=10 max_steps=10 num_train_steps=10 training_steps=10": "Did you mean steps=10?",
    "num_epochs=3 n_epochs=3 num_train_epochs=3": "There are no epochs",
    "callbacks.early_stopping.patience=3 patience=3 early_stopping=true": "trainer.stop_early('why')",
    "optimizer.exclude=[bias] no_decay=[bias]": "optimizer(variables, weight_decay=0.0)",
    "lr=0.1 optimizer.lr=0.1 initial_learning_rate=0.1": "Did you mean optimizer.learning_rate=0.1?",
    "lr_decay=0.1": "Did you mean optimizer.schedule=cosine?",
    "seed_everything=1 random_seed=1": "Did you mean seed=1?",
    "devices=2 gpus=2 trainer.devices=2": "Type mode=mirrored mode.replicas=NUMBER",
    "num_nodes=2 world_size=2": "Type mode=multiworker mode.workers=NUMBER",
    "precision=16 precision=16-mixed mode.precision=16": "mode.precision=mixed_float16",
    "bf16=true precision=bf16": "mode.precision=mixed_bfloat16",
    "strategy=ddp distribution_strategy=mirrored": "Did you mean mode.strategy=mirrored?",
    "accumulate_grad_batches=4 gradient_accumulation_steps=4": "Did you mean optimizer.accumulate=4?",
    "gradient_clip_val=0.5 clipnorm=0.5": "Did you mean optimizer.clip_norm=0.5?",
    "log_every_n_steps=5 logging_steps=5": "Did you mean callbacks.log.every=5?",
    "val_check_interval=5 eval_steps=5": "Did you mean callbacks.evaluate.every=5?",
    "save_steps=5 checkpoint_interval=5": "Did you mean callbacks.checkpoint.every=5?",
    "ckpt_path=runs/a resume_from_checkpoint=runs/a": "Did you mean resume=runs/a?",
    "model_dir=out default_root_dir=out": "Did you mean run_dir=out?",
    "jit_compile=true": "Type mode=xla",
    "run_eagerly=true": "Type mode=eager.",
    "fast_dev_run=true": "Type debug=fast",
    "monitor=loss callbacks.checkpoint.monitor=loss": "Did you mean callbacks.checkpoint.best=loss?",
    "callbacks.profile.evry=3": "There is callbacks.profile.at, callbacks.profile.steps.",
}


def test_names_of_other_libraries_lead_to_the_right_key(folder):
    for words, expected in OTHER_NAMES.items():
        for word in words.split():
            with pytest.raises(ConfigError) as refusal:
                config.load([M, word], folder)
            assert expected in str(refusal.value), word


def test_more_workers_than_memory_holds_are_refused(folder, capsys, monkeypatch):
    monkeypatch.setattr("modetrain.data.sources.arrays.free_memory", lambda: 2 * 2**30)
    err = refused(capsys, [M, "mode=multiworker", "mode.workers=500", "data.batch_size=500"])
    assert (
        "mode.workers=500: a worker needs at least 0.3 GiB before it has a model, together 150 GiB, and 2.0 GiB" in err
    )
    assert "Type mode.workers=5 or fewer" in err
    assert not (folder / "runs").exists(), "nothing was begun"


@pytest.mark.parametrize(
    ("environ", "said", "way"),
    [
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'},
            "TF_CONFIG says that this process is worker 1 of 2 (a:1, b:1)",
            "type `unset TF_CONFIG`",
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n1", "SLURM_JOB_ID": "1"}
            | {"SLURM_STEP_TASKS_PER_NODE": "2", "MODETRAIN_PORT": "7000"},
            "Slurm's variables say that this process is worker 0 of 2 (n1:7000, n1:7001)",
            "type it without srun",
        ),
    ],
    ids=["TF_CONFIG", "slurm"],
)
def test_workers_of_a_cluster_start_none_here(folder, capsys, monkeypatch, environ, said, way):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    err = refused(capsys, [M, "mode=multiworker", "mode.workers=2"])
    assert f"mode.workers=2: {said}" in err
    assert f"To start 2 workers on this machine {way}; to be that worker leave mode.workers out." in err


# --- files -----------------------------------------------------------------------------------------------------------

RECIPE = "# @package _global_\nrecipe:\n  _target_: recipes.mine.Mine\n"
STEPS = "    def train_step(self, batch): ...\n    def eval_step(self, batch): ...\n"
ALONE = (
    "import modetrain\n\nclass Mine(modetrain.Recipe):\n    def __init__(self, *, model, optimizer, info): ...\n"
    + STEPS
)
MINE = "from modetrain import Recipe\n\nclass Mine(Recipe):\n" + STEPS
WITH = ["recipe=mine", "model=mlp"]

WRONG_FILES = [
    # YAML
    ({"conf/recipe/mine.yaml": "recipe:\n  _target_: [a\nsteps: 3\n"}, WITH, ["conf/recipe/mine.yaml:3", "not YAML"]),
    ({"conf/recipe/mine.yaml": "steps: 1\nsteps: 2\n"}, WITH, ["conf/recipe/mine.yaml:2", "duplicate"]),
    ({"conf/recipe/mine.yaml": "a:\n\t- b\n"}, WITH, ["conf/recipe/mine.yaml:2"]),
    ({"conf/recipe/mine.yaml": "- steps\n- 3\n"}, WITH, ["conf/recipe/mine.yaml", "this is a list"]),
    ({"conf/recipe/mine.yaml": "steps\n"}, WITH, ["recipe=mine", "names no class"]),
    ({"conf/config.yaml": "a: 1\n  b: 2\n"}, [M], ["conf/config.yaml:2"]),
    ({"conf/data/mine.yaml": "name: mnist\n1: 2\n"}, [M, "data=mine"], ["conf/data/mine.yaml", "the key 1"]),
    # defaults lists
    (
        {"conf/recipe/mine.yaml": "# @package _global_\ndefaults:\n  - override /data: mnits\n"},
        WITH,
        ["conf/recipe/mine.yaml", "data/mnits", "Did you mean 'mnist'?"],
    ),
    (
        {"conf/recipe/mine.yaml": "# @package _global_\ndefaults:\n  - override /optimzer: sgd\n"},
        WITH,
        ["conf/recipe/mine.yaml", "optimzer", "Did you mean 'optimizer'?"],
    ),
    (
        {"conf/recipe/mine.yaml": "# @package _global_\ndefaults:\n  - override /modle: mlp\n"},
        WITH,
        ["conf/recipe/mine.yaml", "modle", "Did you mean 'model'?"],
    ),
    (
        {
            "conf/recipe/mine.yaml": RECIPE + "defaults:\n  - /model: mlp\n",
            "conf/recipe/another.yaml": RECIPE + "defaults:\n  - override /model: mlp\n",
        },
        ["recipe=mine"],
        ["conf/recipe/mine.yaml: its defaults list asks for model: mlp", "Write `- override /model: mlp` in it"],
    ),
    (
        {"conf/recipe/mine.yaml": "defaults:\n  - override /model: mlp\nrecipe:\n  _target_: recipes.mine.Mine\n"},
        ["recipe=mine"],
        ["conf/recipe/mine.yaml: the line '# @package _global_' is missing"],
    ),
    (
        {"conf/recipe/mine.yaml": "recipe:\n  _target_: recipes.mine.Mine\n"},
        ["recipe=mine"],
        ["conf/recipe/mine.yaml: the line '# @package _global_' is missing"],
    ),
    ({"conf/recipe/mine.yaml": "defaults:\n  - nothing\n"}, WITH, ["conf/recipe/mine.yaml", "recipe/nothing"]),
    ({"conf/recipe/mine.yaml": "defaults: mnist\n"}, WITH, ["recipe/mine", "defaults must be a list"]),
    # keys and values
    ({"conf/recipe/mine.yaml": RECIPE + "stepz: 3\n"}, WITH, ["stepz=3 (from conf/recipe/mine.yaml)", "steps"]),
    ({"conf/recipe/mine.yaml": RECIPE + "steps: many\n"}, WITH, ["steps=many (from conf/recipe/mine.yaml)"]),
    ({"conf/recipe/mine.yaml": RECIPE + "data: 3\n"}, WITH, ["data=3 (from conf/recipe/mine.yaml)", "section"]),
    ({"conf/recipe/mine.yaml": RECIPE + "optimizer:\n"}, WITH, ["optimizer=null", "section"]),
    ({"conf/data/mine.yaml": "name: mnist\nbacth_size: 3\n"}, [M, "data=mine"], ["bacth_size", "data.batch_size?"]),
    ({"conf/data/mine.yaml": "batch_size: 3\n"}, [M, "data=mine"], ["data.name is missing"]),
    ({"conf/data/mine.yaml": "name: ???\n"}, [M, "data=mine"], ["data.name has to be given", "data.name=mnist"]),
    ({"conf/mode/mine.yaml": "name: mine\ncompile: jit\n"}, [M, "mode=mine"], ["=jit (from conf/mode/mine.yaml)"]),
    ({"conf/recipe/mine.yaml": RECIPE + "run_dir: ${oc.env:NO_SUCH_VARIABLE}\n"}, WITH, ["NO_SUCH_VARIABLE"]),
    # a config of their own
    ({"conf/config.yaml": "steps: 3\n"}, ["steps=3"], ["recipe= is missing"]),
    ({"conf/config.yaml": "defaults:\n  - recipe: mnist\n"}, [], ["conf/config.yaml lacks", "- model: null"]),
    # code
    ({"conf/recipe/mine.yaml": "# @package _global_\nsteps: 3\n"}, WITH, ["names no class", "_target_: recipes."]),
    ({"conf/recipe/mine.yaml": RECIPE}, WITH, ["there is no module recipes.mine"]),
    ({"conf/recipe/mine.yaml": RECIPE, "recipes/mine.py": "class Other: pass\n"}, WITH, ["mine.py has no 'Mine'"]),
    # arguments are known through base classes and imports
    ({"conf/recipe/mine.yaml": RECIPE + "  extra: 1\n", "recipes/mine.py": MINE}, WITH, ["has no argument 'extra'"]),
    (
        {"conf/recipe/mine.yaml": RECIPE + "  extra: 1\n", "recipes/mine.py": "from .mnist import Digits as Mine\n"},
        WITH,
        ["recipes.mine.Mine has no argument 'extra'"],
    ),
    ({"conf/recipe/mine.yaml": RECIPE, "recipes/mine.py": "class Mine(\n"}, WITH, ["recipes/mine.py:1", "not Python"]),
    (
        {
            "conf/recipe/mine.yaml": RECIPE + "  smothing: 0.1\n",
            "recipes/mine.py": (
                "import modetrain\n\nclass Mine(modetrain.Recipe):\n"
                "    def __init__(self, *, smoothing=0.0, model, optimizer, info): ...\n"
            ),
        },
        WITH,
        ["has no argument 'smothing'", "Did you mean recipe.smoothing?"],
    ),
    (
        {
            "conf/recipe/mine.yaml": RECIPE,
            "recipes/mine.py": ("class Mine:\n    def __init__(self, smoothing, *, model, optimizer, info): ...\n"),
        },
        WITH,
        ["recipe.smoothing is missing", "Type +recipe.smoothing="],
    ),
    (
        {
            "conf/callbacks/mine.yaml": "mine:\n  _target_: callback.Mine\n  evry: 3\n",
            "callback.py": ("import dataclasses\n\n@dataclasses.dataclass\nclass Mine:\n    every: int = 1\n"),
        },
        [M, "callbacks=[default,mine]"],
        ["callback.Mine has no argument 'evry'", "callbacks.mine.every"],
    ),
    (
        {"conf/recipe/mine.yaml": RECIPE, "recipes/mine.py": MINE},
        ["recipe=mine"],
        ["model=null: recipes.mine.Mine builds a model", "Type model=actor_critic or model=cnn or model="],
    ),
    (
        {
            "conf/recipe/mine.yaml": RECIPE + "  rate: 0.5\n",
            "recipes/mine.py": ("class Mine:\n    def __init__(self, rate, *, model, optimizer, info): ...\n"),
        },
        [*WITH, "recipe.rate=high"],
        ["recipe.rate=high", "takes a number or null, not 'high'", "recipe.rate=0.5"],
    ),
    (
        {
            "conf/recipe/mine.yaml": RECIPE + "  rate: 0.5\n",
            "recipes/mine.py": (
                "class Mine:\n    def __init__(self, rate: int | None, *, model, optimizer, info): ...\n"
            ),
        },
        WITH,
        ["recipe.rate=0.5 (from conf/recipe/mine.yaml): recipe.rate takes a whole number or null, not 0.5"],
    ),
    (
        {"callback.py": "class Mine:\n    def __init__(self, *, every: int = 10): ...\n"},
        [M, "+callbacks.mine._target_=callback.Mine", "+callbacks.mine.every=often"],
        ["+callbacks.mine.every=often", "a whole number, not 'often'", "callbacks.mine.every=10"],
    ),
    # classes without what the run needs
    (
        {"conf/recipe/mine.yaml": RECIPE, "recipes/mine.py": MINE.replace("train_step", "train_stp")},
        WITH,
        ["class Mine in recipes/mine.py:3 has no train_step", "Did you mean train_step, where it says train_stp?"],
    ),
    (
        {
            "conf/recipe/mine.yaml": RECIPE,
            "recipes/mine.py": "from .base import Base\n\nclass Mine(Base):\n    def train_step(self, batch): ...\n",
            "recipes/base.py": "import modetrain\n\nclass Base(modetrain.Recipe): ...\n",
        },
        WITH,
        ["has no eval_step", "Write def eval_step(self, batch):"],
    ),
    (
        {"conf/recipe/mine.yaml": RECIPE, "recipes/mine.py": MINE.replace("(Recipe)", "")},
        WITH,
        ["is no recipe, it does not derive from modetrain.Recipe. Write class Mine(modetrain.Recipe):"],
    ),
    (
        {"conf/recipe/mine.yaml": RECIPE.replace("Mine", "thing"), "recipes/mine.py": MINE + "\nthing = 3\n"},
        WITH,
        ["that is a plain value (recipes/mine.py: thing = 3), not a class", "Type recipes.mine.Mine."],
    ),
    (
        {"callback.py": "class Mine:\n    def on_step(self, trainer): ...\n"},
        [M, "+callbacks.mine._target_=callback.Mine"],
        ["class Mine in callback.py:1 is no callback", "Write class Mine(modetrain.Callback):"],
    ),
    (
        {"callback.py": "import modetrain\n\nclass Mine(modetrain.Callback):\n    def look(self, run): ...\n"},
        [M, "+callbacks.mine._target_=callback.Mine"],
        ["class Mine in callback.py:3 has none of the methods", "look is now on_step(self, trainer)"],
    ),
    (
        {
            "callback.py": "import modetrain\n\nclass Mine(modetrain.Callback):\n    def on_step(self, trainer): ...\n"
            "    def restore(self, state): ...\n"
        },
        [M, "+callbacks.mine._target_=callback.Mine"],
        ["class Mine in callback.py:3 has restore, which is now load_state"],
    ),
    # run folders
    ({"out": ""}, [M, "run_dir=out"], ["out is a file"]),
    ({"out": ""}, [M, "run_dir=out/deeper"], ["out is a file"]),
    ({"runs": ""}, [M], ["run_dir=runs: runs is a file"]),
    ({"out/run.json": "{}"}, [M, "run_dir=out"], ["already holds a run", "resume=latest", "run_dir=out-2"]),
    ({"out/checkpoints/step-00000005.npz": ""}, [M, "run_dir=out"], ["already holds a run"]),
    (
        {"out/run.json": "{}", "old/checkpoints/step-00000005.npz": ""},
        [M, "run_dir=out", "resume=old"],
        ["already holds another run", "run_dir=out resume=latest", "run_dir=out-2"],
    ),
    ({"out/run.json": "{}"}, [M, "resume=out"], ["no checkpoint in out/checkpoints"]),
    ({"out/checkpoints/step-00000005.npz": ""}, [M, "resume=out/checkpoints"], ["Type resume=out"]),
    ({"notes.txt": ""}, [M, "resume=notes.txt"], ["step-NUMBER.npz"]),
    (
        {"out/checkpoints/step-00000050.npz": "", "out/checkpoints/step-00000100.npz": ""},
        [M, "steps=60", "resume=latest", "run_dir=out"],
        ["steps=60 with resume=latest: that run has made 100 steps already", "more than 100"],
    ),
    (
        {"out/checkpoints/step-00000050.npz": "", "out/checkpoints/step-00000100.npz": ""},
        [M, "steps=49", "run_dir=new", "resume=out/checkpoints/step-00000050.npz"],
        ["with resume=out/checkpoints/step-00000050.npz: that run has made 50 steps already"],
    ),
    ({"out/run.json": "{}"}, [M, "do=evaluate", "resume=latest", "run_dir=out"], ["no checkpoint yet"]),
    (
        {"out/run.json": '{"status": "completed", "steps": 400}'},
        [M, "resume=latest", "run_dir=out"],
        ["out held a run that has made 400 steps", "none of its checkpoints", "run_dir=out-2", "delete out"],
    ),
    (
        {"out/run.json": '{"status": "running", "steps": 0, "resumed_at": 40}', "out/checkpoints/best.npz": ""},
        [M, "resume=latest", "run_dir=out"],
        ["has made 40 steps", "resume=out/checkpoints/best.npz"],
    ),
    (
        {"out/checkpoints/index.json": '{"step-00000020.npz": "x"}'},
        [M, "resume=latest", "run_dir=out"],
        ["has made 20 steps", "none of its checkpoints"],
    ),
    ({"file": ""}, [M, "data=folder", "data.path=file"], ["is a file"]),
    ({"file": ""}, [M, "data.dir=file"], ["is a file"]),
]


@pytest.mark.parametrize(("files", "words", "expected"), WRONG_FILES, ids=range(len(WRONG_FILES)))
def test_wrong_files_are_refused_by_name(folder, capsys, files, words, expected):
    write(folder, files)
    err = refused(capsys, words)
    for part in expected:
        assert part in err


def test_a_file_that_is_not_text_is_named(folder, capsys):
    write(folder, {"conf/recipe/mine.yaml": ""})
    (folder / "conf/recipe/mine.yaml").write_bytes(b"steps: \xff\xfe")
    assert "conf/recipe/mine.yaml: not UTF-8" in refused(capsys, WITH)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_folder_that_cannot_be_made_is_refused(folder, capsys):
    (folder / "locked").mkdir(mode=0o555)
    assert "nothing can be made in locked" in refused(capsys, [M, "run_dir=locked/run"])


def test_a_run_that_failed_before_its_first_step_does_not_block_its_folder(folder, capsys):
    write(folder, {"out/run.json": '{"status": "failed", "steps": 0}'})
    assert any("run_dir=out: the run in it failed" in note for note in config.load([M, "run_dir=out"], folder).notes)
    for record in ('{"status": "failed", "steps": 1}', '{"status": "running", "steps": 0}', "{}", "", "[]"):
        write(folder, {"out/run.json": record})
        assert "already holds a run" in refused(capsys, [M, "run_dir=out"])
    write(folder, {"out/run.json": '{"status": "failed", "steps": 0}', "out/checkpoints/best.npz": ""})
    assert "already holds a run" in refused(capsys, [M, "run_dir=out"])


def test_nothing_is_left_of_the_attempt_to_write(folder):
    config.load([M], folder)
    config.load([M, "run_dir=new/run"], folder)
    assert list(folder.iterdir()) == []


# --- what is right ---------------------------------------------------------------------------------------------------


def test_every_shipped_option_composes(folder, monkeypatch):
    monkeypatch.setenv("TPU_NAME", "local")
    for group in ("model", "optimizer", "mode", "debug"):
        for file in sorted((shipped_dir() / "conf" / group).glob("*.yaml")):
            recipe = "recipe=gan" if (group, file.stem) == ("model", "gan") else M
            more = ["mode.workers=2"] if file.stem == "multiworker" else []
            settings = config.load([recipe, f"{group}={file.stem}", *more], folder)
            assert dict(settings.resolved["mode"]).keys() == vars(settings.mode).keys()
    for file in sorted((shipped_dir() / "conf" / "recipe").glob("*.yaml")):
        assert config.load([f"recipe={file.stem}"], folder).recipe_name == file.stem


def test_values_arrive_as_typed(folder):
    words = [M, "mode=xla", "steps=50", "seed=7", "optimizer=sgd", "data.batch_size=32", "callbacks.log.every=10"]
    words += ["data.image_size=[28,20]", "optimizer.learning_rate=1", "run_dir=some where"]
    settings = config.load(words, folder)
    assert (settings.recipe_name, settings.model_name, settings.debug_name) == ("mnist", "cnn", None)
    assert (settings.mode.name, settings.mode.compile, settings.mode.steps_per_call) == ("xla", "xla", "auto")
    assert (settings.steps, settings.seed, settings.do) == (50, 7, "train")
    assert (settings.optimizer.name, settings.optimizer.learning_rate, settings.optimizer.momentum) == ("sgd", 1, 0.9)
    assert (settings.data.batch_size, settings.data.image_size) == (32, (28, 20))
    assert settings.callbacks["log"] == {"every": 10}
    assert settings.run_dir == folder / "some where"
    assert settings.resolved["optimizer"]["momentum"] == 0.9
    assert settings.command == (
        "python -m modetrain recipe=mnist mode=xla steps=50 seed=7 optimizer=sgd data.batch_size=32 "
        "callbacks.log.every=10 'data.image_size=[28,20]' optimizer.learning_rate=1 'run_dir=some where'"
    )


def test_a_callback_can_be_switched_off_and_be_ones_own(folder):
    code = "import modetrain\n\nclass Mine(modetrain.Callback):\n    def __init__(self, *, every): ...\n"
    write(folder, {"callback.py": code})
    words = [M, "callbacks.log=null", "~callbacks.profile", "+callbacks.mine._target_=callback.Mine"]
    settings = config.load([*words, "+callbacks.mine.every=3"], folder)
    assert set(settings.callbacks) == {"evaluate", "checkpoint", "recorder", "mine"}


def test_null_and_tilde_leave_a_group_out(folder):
    write(folder, {"conf/recipe/mine.yaml": RECIPE, "recipes/mine.py": ALONE})
    for word in ("model=null", "~model"):
        assert config.load(["recipe=mine", word], folder).model == {}
    assert config.load([M, "debug=null"], folder).debug_name is None


def test_the_users_files_come_before_the_shipped_ones(folder):
    write(
        folder,
        {
            "conf/optimizer/sgd.yaml": "name: sgd\nlearning_rate: 0.5\n",
            "conf/recipe/mine.yaml": RECIPE + "steps: 77\n",
            "recipes/mine.py": MINE,
            "extra/optimizer/sgd.yaml": "name: sgd\nlearning_rate: 0.25\n",
            "extra/mode/mine.yaml": "name: mine\ncompile: graph\nsteps_per_call: 3\n",
        },
    )
    settings = config.load([*WITH, "optimizer=sgd", "mode=mine"], folder, ["extra"])
    assert (settings.steps, settings.optimizer.learning_rate, settings.mode.steps_per_call) == (77, 0.5, 3)
    # What a short file leaves out has the dataclass's default.
    assert (settings.optimizer.momentum, settings.mode.precision) == (0.0, "float32")
    assert settings.command.endswith("--config-dir extra")


@pytest.mark.parametrize(
    "code",
    [
        "from recipes.mnist import Digits as Mine",
        "import somewhere\n\nclass Mine(somewhere.Base): ...",
        f"import modetrain\n\nclass Mine(modetrain.Recipe):\n    def __init__(self, **anything): ...\n{STEPS}",
        "from somewhere import *",
        "Mine = make_a_class()",
        "@wrapped\nclass Mine: ...",
        "try:\n    from fast import Mine\nexcept ImportError:\n    class Mine: ...",
    ],
)
def test_code_that_its_text_does_not_settle_is_not_refused(folder, code):
    extra = "" if "Digits" in code else "  extra: 1\n"
    write(folder, {"conf/recipe/mine.yaml": RECIPE + extra, "recipes/mine.py": code})
    assert config.load(WITH, folder).recipe["_target_"] == "recipes.mine.Mine"


def test_a_group_of_the_users_own_is_added_with_plus(folder, capsys):
    write(folder, {"conf/experiment/big.yaml": "# @package _global_\ndefaults:\n  - override /mode: xla\nsteps: 9\n"})
    settings = config.load([M, "+experiment=big"], folder)
    assert (settings.steps, settings.mode.name) == (9, "xla")
    assert "+experiment" in refused(capsys, [M, "experiment=big"])


def test_interpolations_are_resolved(folder, monkeypatch):
    monkeypatch.setenv("BATCH", "16")
    write(folder, {"conf/data/mine.yaml": "name: mnist\nbatch_size: ${oc.decode:${oc.env:BATCH}}\n"})
    settings = config.load([M, "data=mine", "callbacks.log.every=${seed}", "seed=4"], folder)
    assert settings.data.batch_size == 16
    assert settings.callbacks["log"]["every"] == 4


def test_a_root_of_the_users_own_needs_its_defaults_list_alone(folder):
    root = "defaults:\n  - _self_\n  - do: train\n  - mode: graph\n  - optimizer: sgd\n  - data: mnist\n"
    write(folder, {"conf/config.yaml": root + "  - model: mlp\n  - recipe: mine\n", "conf/recipe/mine.yaml": RECIPE})
    settings = config.load([], folder)
    assert (settings.steps, settings.seed, settings.callbacks) == (1000, 0, {})
    write(folder, {"conf/big.yaml": root + "  - model: mlp\n  - recipe: mnist\nseed: 9\n"})
    assert config.load(["hydra.job.config_name=big"], folder).seed == 9


def test_every_key_of_the_settings_is_one_of_the_configuration(folder):
    resolved = dict(leaves(config.load([M], folder).resolved))
    assert [key for key in KEYS if key not in resolved] == []
    assert [key for key in resolved if key not in KEYS and key.partition(".")[0] not in ("recipe", "model")] == []


def test_every_example_and_default_is_accepted():
    given = dict(leaves(defaults()))
    for key, entry in KEYS.items():
        assert entry.accepts(entry.example), key
        assert given[key] == "???" or entry.accepts(given[key]), key


# --- debug presets ---------------------------------------------------------------------------------------------------


def test_notes_say_what_a_preset_changed_and_nothing_else(folder):
    settings = config.load([M, "debug=fast"], folder)
    assert settings.debug_name == "fast"
    assert (settings.steps, settings.data.eval_batches, settings.callbacks["log"]["every"]) == (6, 2, 1)
    assert settings.notes[0] == "debug=fast changes:"
    plain = config.load([M], folder)
    assert any(note.startswith(f"  steps=6, not {plain.steps} ") for note in settings.notes)
    before, after = dict(leaves(plain.resolved)), dict(leaves(settings.resolved))
    noted = [note.split("=")[0].strip() for note in settings.notes[1:]]
    assert sorted(noted) == sorted(key for key in after if before[key] != after[key])


def test_the_time_in_a_path_is_no_change_by_a_preset(folder):
    for _ in range(3):
        settings = config.load([M, "debug=fast", "run_dir=runs/${now:%H-%M-%S-%f}"], folder)
        assert not [note for note in settings.notes if "run_dir" in note]
    again = config.load([M, "run_dir=runs/${now:%H-%M-%S-%f}"], folder)
    assert again.run_dir != settings.run_dir, "each command has its own time"


def test_the_command_line_beats_a_preset_and_the_notes_say_so(folder):
    settings = config.load([M, "debug=fast", "steps=20"], folder)
    assert settings.steps == 20
    assert "  steps=20 stays, as typed" in settings.notes
    assert not any("steps=6" in note for note in settings.notes)


def test_overfit_says_what_evaluation_sees(folder):
    settings = config.load([M, "debug=overfit", "optimizer.warmup=10"], folder)
    assert (settings.data.overfit, settings.optimizer.weight_decay) == (1, 0.0)
    assert any("data.overfit=1" in note and "evaluation sees them too" in note for note in settings.notes)


def test_nan_switches_the_checks_on_in_the_chosen_mode(folder):
    settings = config.load([M, "debug=nan", "mode=eager"], folder)
    assert settings.check_numerics
    assert settings.mode.name == "eager"


def test_profile_traces_within_the_run(folder):
    settings = config.load([M, "debug=profile"], folder)
    assert settings.callbacks["profile"]["at"] + settings.callbacks["profile"]["steps"] <= settings.steps


# --- resume ----------------------------------------------------------------------------------------------------------


def test_resume_latest_is_the_newest_run_of_this_recipe_and_mode(folder):
    runs = folder / "runs/mnist/graph"
    for name in ("2029-12-31_23-59-59", "zzz", *(f"2030-01-01_00-00-00{suffix}" for suffix in ("", "-2", "-10"))):
        (runs / name).mkdir(parents=True)
    (folder / "runs/mnist/xla/2031-01-01_00-00-00").mkdir(parents=True)
    settings = config.load([M, "resume=latest"], folder)
    assert (settings.resume, settings.run_dir) == ("latest", runs / "2030-01-01_00-00-00-10")


@pytest.mark.parametrize("made", [False, True], ids=["no folder", "an empty one"])
def test_resume_latest_with_a_run_dir_serves_for_the_first_start_too(folder, made):
    if made:
        (folder / "out").mkdir()
    assert config.load([M, "resume=latest", "run_dir=out"], folder).run_dir == folder / "out"


@pytest.mark.parametrize(
    "record",
    [
        '{"status": "running", "steps": 0, "resumed_at": 0}',
        '{"status": "failed", "steps": 30, "resumed_at": 0, "checkpoints": {"written": 0}}',
        "{",
    ],
)
def test_a_run_that_ended_before_its_first_checkpoint_may_begin_again(folder, record):
    write(folder, {"out/run.json": record})
    assert config.load([M, "resume=latest", "run_dir=out"], folder).run_dir == folder / "out"


def test_a_checkpoint_that_is_missing_is_said_to_be_missing_and_no_more(folder, capsys):
    err = refused(capsys, [M, "resume=out/checkpoints/step-00000041.npz", "steps=20"])
    assert "steps already" not in err


@pytest.mark.parametrize(("given", "seconds"), [("10m", 600.0), ("0", 0.0), ("2.5", 2.5), ("1h30m", 5400.0)])
def test_the_watchdogs_times_are_times_too(folder, given, seconds):
    settings = config.load([M, f"watchdog.after={given}", f"watchdog.heartbeat={given}"], folder)
    assert (settings.watchdog.after, settings.watchdog.heartbeat) == (seconds, seconds)


def test_resume_takes_a_run_folder_or_a_checkpoint(folder):
    write(folder, {"out/checkpoints/step-00000005.npz": "", "out/run.json": "{}"})
    assert config.load([M, "resume=out"], folder).resume == str(folder / "out")
    file = "out/checkpoints/step-00000005.npz"
    assert config.load([M, "do=evaluate", f"resume={file}"], folder).resume == str(folder / file)
    assert config.load([M, "run_dir=out", f"resume={file}"], folder).run_dir == folder / "out"
    assert config.load([M, "run_dir=new", "resume=out"], folder).run_dir == folder / "new"
    assert config.load([M, "steps=5", "resume=out"], folder).steps == 5, "there is nothing to do, which is no mistake"
    assert config.load([M, "steps=4", "resume=out", "do=evaluate"], folder).steps == 4


def test_a_run_that_is_named_alone_has_the_words_of_that_run(folder, capsys):
    words = "recipe=mnist model=mlp 'model.hidden=[7]' mode=graph steps=5 run_dir=out do=train callbacks.log.every=7"
    command = f"python -m modetrain {words}"
    write(folder, {"out/checkpoints/step-00000005.npz": "", "out/run.json": json.dumps({"command": command})})

    def composed(*words):
        assert main([*words, "--cfg", "job"]) == 0
        return yaml.safe_load(capsys.readouterr().out)

    for words in (["resume=out"], ["run_dir=out", "resume=latest"], ["resume=out/checkpoints/step-00000005.npz"]):
        found = composed(*words, "steps=9")
        assert (found["model"]["hidden"], found["steps"], found["mode"]["name"]) == ([7], 9, "graph")
        assert found["do"]["name"] == "train"
    found = composed("do=evaluate", "resume=out", "mode=xla", "model.hidden=[8]")
    assert (found["do"]["name"], found["mode"]["name"], found["model"]["hidden"]) == ("evaluate", "xla", [8])
    assert found["callbacks"]["log"]["every"] == 7
    assert "filters" in composed("resume=out", "model=cnn")["model"], "keys of another model are left out"
    assert composed("resume=out", "callbacks.log=null")["callbacks"]["log"] is None
    assert composed("resume=out", "recipe=mnist", "steps=9")["model"]["filters"], "a whole command line counts as typed"
    more = ("callbacks.log.every=7", "resume=out", "steps=9")
    line = resumed.expand(arguments.parse(["resume=out", "steps=9"]), folder)
    assert line.overrides == ("recipe=mnist", "model=mlp", "model.hidden=[7]", "mode=graph", *more)
    assert "no such file or folder" in refused(capsys, ["resume=missing"])
    assert "recipe= is missing" in refused(capsys, ["resume=latest"])
    assert "recipe= is missing" in refused(capsys, ["run_dir=missing", "resume=latest"])


# --- building --------------------------------------------------------------------------------------------------------


def test_instantiate_gives_plain_containers_and_the_callers_objects(folder):
    write(
        folder,
        {
            "thing.py": (
                "class Thing:\n    def __init__(self, sizes, extra):\n        self.sizes, self.extra = sizes, extra\n"
            )
        },
    )
    install_recipes(folder)
    extra = object()
    thing = instantiate({"_target_": "thing.Thing", "sizes": [1, {"a": 2}]}, extra=extra)
    assert type(thing.sizes) is list
    assert type(thing.sizes[1]) is dict
    assert thing.extra is extra


def test_instantiate_shows_the_cause(folder):
    write(folder, {"broken.py": "class Broken:\n    def __init__(self, inner=None): raise KeyError('the cause')\n"})
    install_recipes(folder)
    with pytest.raises(KeyError, match="the cause"):
        instantiate({"_target_": "broken.Broken"})
    with pytest.raises(KeyError, match="the cause"):
        instantiate({"_target_": "broken.Broken", "inner": {"_target_": "broken.Broken"}})


def test_instantiate_refuses_nothing_at_all(folder):
    with pytest.raises(ConfigError, match="no _target_ is given"):
        instantiate({})


def test_instantiate_refuses_foreign_targets(folder):
    with pytest.raises(ConfigError, match="subprocess can run commands"):
        instantiate({"_target_": "subprocess.run", "args": ["true"]})
    with pytest.raises(ConfigError, match="can run commands"):  # through a module that imports it
        instantiate({"_target_": "numpy.f2py.os.system", "command": "true"})
    assert instantiate({"_target_": "numpy.arange", "_args_": [2]}).tolist() == [0, 1], "any package that is installed"


# --- processes -------------------------------------------------------------------------------------------------------


def python(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(Path(config.__file__).parents[2])}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "words",
    [
        ["recipe=mnsit"],
        [M, "steps=x"],
        [M, "debug=overfit", "recipe._target_=os.system"],
        [M, "mode=xla", "mode.strict=true"],
        [M, "model=null", "model.dropout=1.5"],
        [M, "data.train_split=validation"],
        ["-m", M, "mode=eager,grpah"],
    ],
)
def test_a_real_process_answers_without_importing_tensorflow(folder, words):
    code = (
        "import sys\nfrom modetrain.__main__ import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'tensorflow', 'keras', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = python(folder, "-c", code, *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("modetrain: ")
    assert "Traceback" not in done.stderr


def test_a_good_command_line_prints_its_config_without_tensorflow(folder):
    code = "import sys\nfrom modetrain.__main__ import main\nmain(sys.argv[1:])\nassert 'tensorflow' not in sys.modules"
    done = python(folder, "-c", code, M, "steps=50", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^steps: 50$", done.stdout, re.M)
    assert re.search(r"^  compile: graph$", done.stdout, re.M)


def test_the_users_recipes_override_and_add_with_and_without_an_init_file(folder):
    write(folder, {"recipes/models.py": "WHOSE = 'the user'\n", "recipes/added.py": "WHOSE = 'the user'\n"})
    code = (
        "import pathlib, sys\nsys.path = [p for p in sys.path if p]\nfrom modetrain.files import paths\n"
        "paths.install_recipes(pathlib.Path.cwd())\nimport importlib.util, recipes.added, recipes.models\n"
        "print(recipes.models.WHOSE, recipes.added.WHOSE, importlib.util.find_spec('recipes.mnist').origin)\n"
        "print(getattr(recipes, 'INIT', 'no init'))"
    )
    expected = f"the user the user {shipped_dir() / 'recipes' / 'mnist.py'}\n"
    assert python(folder, "-c", code).stdout == expected + "no init\n"
    write(folder, {"recipes/__init__.py": "INIT = 'init was run'\n"})
    assert python(folder, "-c", code).stdout == expected + "init was run\n"
