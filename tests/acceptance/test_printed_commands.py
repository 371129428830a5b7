"""Every command that is printed can be pasted: through a real shell, then Hydra's grammar, it names the same folder."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from modetrain import console as terminal
from modetrain.__main__ import _load
from modetrain.app import report, sweep
from modetrain.callbacks import flight_recorder
from modetrain.config import arguments, overrides
from modetrain.config import load as config
from modetrain.data.sources import messages
from modetrain.errors import ConfigError
from modetrain.files import quoting
from modetrain.tools.inspect.startup_check import format_inspect_command
from modetrain.training.metric_direction import Monitored
from tests.conftest import ROOT

SMALL = ("recipe=mnist", "model=mlp", "model.hidden=[4]", "data.source=bundled", "data.batch_size=8", "mode=eager")
SHELLS = ("bash", "sh")
# Of every kind one or two: what a shell, Hydra, OmegaConf, rich or `~` takes for something else.
NAMES = [
    *(
        "a=b,c",
        "(1)",
        "[x]",
        "{a,b}",
        "~",
        "~nobody/x",
        "it's",
        'say "hi" #1',
        "a\\",
        "größe",
        "日本",
        "null",
        "true",
        "1e3",
    ),
    *(" blank ", "$HOME", "\\${x} ${y", "???", "latest", "-dash", "a\tb\n", "*%s&!;<`date`", ":smile:", "\u202e\u00a0"),
]
MORE_NAMES = [
    *(
        "plain",
        "a=b",
        "a,b",
        "~/x",
        "'",
        '"',
        "\\",
        "a\\\\",
        "\\'",
        '\\"',
        "False",
        "123",
        "1_000",
        "nan",
        "inf",
        "-inf",
        "two  blanks",
    ),
    *(
        "${x}",
        "a${",
        "${oc.env:HOME}",
        "--help",
        "a\nb",
        "%s%d\t%",
        "?",
        "a:b",
        "@x",
        "+x",
        "|",
        "^",
        ".hidden",
        "[b]x[/b]",
    ),
    *("\x1b[31m", "\\n\t\\", "'\t'", "0-optimizer.learning_rate=0.1,optimizer.warmup=0", "a.b/c=d", "x" * 200),
]


def pasted(commands: list[str], shell: str) -> list[list[str]]:
    """The words that `python` or `tensorboard` is given where these lines are pasted into a shell, one after the other."""
    prints = "python() { printf '%s\\0' \"$@\"; printf '\\n\\0'; }\ntensorboard() { python \"$@\"; }\n"
    done = subprocess.run([shell, "-c", prints + "\n".join(commands)], capture_output=True, check=True)
    assert not done.stderr, done.stderr.decode()
    found: list[list[str]] = [[]]
    for word in os.fsdecode(done.stdout).split("\0")[:-1]:
        if word == "\n":
            found.append([])
        else:
            found[-1].append(word)
    return found[:-1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made_in(folder: Path) -> Path:
    """A folder that looks like that of a run which has made a step."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints/step-00000001.npz").touch()
    words = (*SMALL, "steps=5")
    settings = config.load(words, Path.cwd())
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(settings.resolved)))
    (folder / "run.json").write_text(json.dumps({"command": settings.command, "status": "stopped", "steps": 1}))
    return folder


def command_in(text: str, heading: str) -> str:
    """The command that is alone on the line after its heading."""
    lines = text.replace("\r\n", "\n").split("\n")
    (at,) = [n for n, line in enumerate(lines) if heading in line]
    assert lines[at].endswith(":")
    command = lines[at + 1]
    assert command.startswith(("  python -m modetrain ", "  tensorboard --logdir ")), command
    return command.strip()


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_any_folder_survives_the_shell_and_hydra(shell, here):
    """By random names out of all that means something to a shell, to Hydra, to OmegaConf or to rich."""
    chance = random.Random(0)
    letters = [*"ab1 =,([{~'\"#&!;<\\`^$}])|>*?%@:+-.é日\t\n\x01\x7f", "${", "\\\\", "\\${", "\u2028", "\udcff"]
    names = NAMES + MORE_NAMES + ["".join(chance.choices(letters, k=chance.randint(1, 8))) for _ in range(500)]
    values = [quoting.path_value(name) for name in names]
    commands = [arguments.printed({"run_dir": value}) for value in values]
    assert all(command.isprintable() for command in commands), "on one line, and nothing that a terminal swallows"
    for value, words in zip(values, pasted(commands, shell), strict=True):
        assert overrides.resolved_value_of(words[-1]) == value
    for name, value in zip(names, values, strict=True):
        assert os.path.abspath(os.path.expanduser(value)) == str(here / name).rstrip("/")


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("runs/a-b_1.2", "run_dir=runs/a-b_1.2"),
        ("a=b", """'run_dir="a=b"'"""),
        ("123", """'run_dir="123"'"""),
        (123, "run_dir=123"),
        (None, "run_dir=null"),
        (True, "run_dir=true"),
        ([32, "a b"], """'run_dir=[32,"a b"]'"""),
        ("it's", """'run_dir="it'"'"'s"'"""),
        ("a\tb", '''"$(printf -- 'run_dir="a\\011b"')"'''),
    ],
)
def test_what_needs_no_quotes_has_none(value, word):
    assert quoting.shell_override("run_dir", value) == word


# --- what is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_command_names_the_folder_that_it_is_about(name, here):
    folder = made_in(here / name)
    settings = config.load([*SMALL, "steps=5", quoting.override("run_dir", str(folder)), "resume=latest"], here)
    told = report.format_error(RuntimeError("broken"), folder / "error.txt", settings)
    checkpoint = folder / "checkpoints/step-00000001.npz"
    commands = [
        command_in(told, "once that is fixed, resume at step 1 with"),
        flight_recorder.replay_command(folder, step=1),
        f"python -m modetrain {' '.join(SMALL)} {quoting.shell_path_override('resume', checkpoint)}",
        f"python -m modetrain {' '.join(SMALL)} {quoting.shell_path_override('init_from.path', folder)}",
        arguments.tensorboard(folder),
        settings.command,  # as run.json keeps it
    ]
    *runs, curves, kept = pasted(commands, "sh")
    resumed, replayed, resumed_from, begun_from = [_load(words[2:], here) for words in runs]
    assert (resumed.run_dir, resumed.resume) == (folder, "latest")
    assert (replayed.replay.path, replayed.replay.step) == (str(folder), 2)
    assert resumed_from.resume == str(checkpoint)
    assert begun_from.init_from.path == str(folder)
    assert curves[0] == "--logdir"
    assert here / os.path.expanduser(curves[1]) == folder
    assert config.load(kept[2:], here).run_dir == folder


@pytest.mark.parametrize("name", ["plain", "a=b", "größe", "it's", "~", "-dash", "a\tb"])
def test_what_an_error_says_to_type_can_be_typed(name, here):
    folder = made_in(here / name)
    with pytest.raises(ConfigError) as refused:
        config.load([*SMALL, quoting.override("run_dir", str(folder))], here)
    word = str(refused.value).rpartition(", or ")[2].partition(" for a new one.")[0]
    (words,) = pasted([f"python {word}"], "sh")
    assert config.load([*SMALL, *words], here).run_dir == Path(f"{folder}-2")
    (words,) = pasted([f"python {messages.data_override('path', str(folder))}"], "sh")
    assert overrides.resolved_value_of(words[0]) == str(folder)


@pytest.mark.parametrize("name", ["a=b", "größe", "it's", "null", "two  blanks", "{a,b}"])
def test_what_is_meant_instead_can_be_typed(name, here):
    with pytest.raises(ConfigError) as refused:
        config.load([*SMALL, quoting.override("output_dir", name)], here)
    (words,) = pasted([f"python {str(refused.value).partition('Did you mean ')[2].rstrip('?')}"], "sh")
    assert config.load([*SMALL, *words], here).run_dir == here / name
    with pytest.raises(ConfigError) as refused:
        Monitored.parse(name)
    (words,) = pasted([f"python {str(refused.value).partition('Type ')[2].partition(' where smaller is')[0]}"], "sh")
    (save,) = [config.load([*SMALL, *words], here).callbacks["checkpoint"]]
    assert Monitored.parse(save["best"]) == Monitored(name=name, best_is="min")


@pytest.mark.parametrize("name", ["a=b", "größe", "it's", "$HOME", "(1)", "null", "a\tb"])
def test_a_job_of_a_sweep_gets_the_folder_that_was_typed(name, here):
    first, second = sweep.plan(["recipe=mnist", f"{quoting.override('run_dir', name)},b"], here)
    assert (first.settings.run_dir, second.settings.run_dir) == (here / name, here / "b")
    below, _ = sweep.plan(["recipe=mnist", "seed=1,2", quoting.override("run_dir", name)], here)
    assert below.settings.run_dir == here / name / "0-seed=1"


def test_an_interpolation_in_the_folder_of_a_sweep_stays_one(here):
    jobs = sweep.plan(["recipe=mnist", "steps=500", "seed=1,2", "run_dir=runs/${steps}"], here)
    assert [job.settings.run_dir for job in jobs] == [here / "runs/500/0-seed=1", here / "runs/500/1-seed=2"]


def test_the_printed_configuration_can_be_composed_again(here):
    from omegaconf import OmegaConf

    settings = config.load(["recipe=mnist", quoting.override("run_dir", "a${b")], here)
    assert OmegaConf.to_container(OmegaConf.create(config.to_yaml(settings)), resolve=True)["run_dir"] == "a${b"


def test_config_folders_and_values_with_blanks_are_kept(here):
    kept = arguments.written(["recipe=mine", "+recipe.note='two words'", "run_dir=old"], ["run_dir", "my conf"])
    (words,) = pasted([arguments.resuming(kept, Path("a=b"))], "sh")
    assert words[2:5] == ["recipe=mine", "+recipe.note='two words'", "resume=latest"]
    assert words[5:] == ['run_dir="a=b"', "--config-dir", "run_dir", "--config-dir", "my conf"]
    (words,) = pasted([format_inspect_command(kept)], "sh")
    assert words[2:5] == ["recipe=mine", "+recipe.note='two words'", "do=inspect"]


def test_no_width_breaks_a_command(make_trainer, settings):
    trainer = make_trainer("eager", steps=1)
    trainer.train()
    trainer.status = "stopped"
    words = [*SMALL, *(f"callbacks.log.every={n}" for n in range(12))]
    names = ["a=b", ":smile: [b]x[/b]", "two  blanks", "日本" * 30, "a\tb"]
    for name, columns, on_terminal in itertools.product(names, [50, 80, 120], [True, False]):
        trainer.folder = Path.cwd() / "runs" / name
        stopped = settings(command=arguments.written(words), run_dir=trainer.folder)
        screen = io.StringIO()
        console = Console(file=screen, width=columns, force_terminal=on_terminal)
        console.print(report.summary(trainer, stopped, str(trainer.folder)))
        assert "python -m" not in screen.getvalue(), "cells are folded"
        assert "tensorboard" not in screen.getvalue()
        for line in report.commands(trainer, stopped):
            terminal.plain(console)(line)
        assert command_in(screen.getvalue(), "resume with") == arguments.resuming(stopped.command, trainer.folder)
        assert command_in(screen.getvalue(), "curves with") == arguments.tensorboard(trainer.folder)


# --- with real runs --------------------------------------------------------------------------------------------------

FOLDER = "größe (1), ~[x]='q' #$HOME"
PICKS = """
import tensorflow as tf
from recipes.mnist import Digits


class Picks(Digits):
    def train_step(self, batch):
        tf.debugging.assert_less(self.step, tf.constant({until}, tf.int64))
        return super().train_step(batch)
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Pastes a command into bash, in a folder with a recipe of the user's own; `on(columns)` gives it a terminal."""
    cwd = tmp_path_factory.mktemp("pasted")
    (cwd / "bin").mkdir()
    python = cwd / "bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {**os.environ, "PYTHONPATH": path, "PATH": f"{cwd / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    class Shell:
        folder = cwd

        @staticmethod
        def run(command, typed=""):
            return subprocess.run(
                ["bash", "-c", command], cwd=cwd, env=environ, input=typed, capture_output=True, text=True, timeout=300
            )

        @staticmethod
        def on_terminal(command, columns):
            """The exit code, and what a terminal of the given width shows."""
            ours, theirs = pty.openpty()
            process = subprocess.Popen(
                ["bash", "-c", f"stty cols {columns} rows 24; {command}"],
                **{
                    "cwd": cwd,
                    "env": {**environ, "TERM": "xterm"},
                    "stdin": theirs,
                    "stdout": theirs,
                    "stderr": theirs,
                },
            )
            os.close(theirs)
            seen = b""
            try:
                while chunk := os.read(ours, 65536):
                    seen += chunk
            except OSError:  # how Linux says that the other end is closed
                pass
            os.close(ours)
            return process.wait(timeout=60), seen.decode()

    return Shell


def test_a_failed_run_is_replayed_and_resumed_by_what_it_printed(shell):
    (shell.folder / "recipes").mkdir()
    (shell.folder / "conf/recipe").mkdir(parents=True)
    (shell.folder / "conf/recipe/picks.yaml").write_text(
        "# @package _global_\nrecipe:\n  _target_: recipes.picks.Picks\n"
    )
    (shell.folder / "recipes/picks.py").write_text(PICKS.format(until=3))
    words = [*SMALL, "recipe=picks", "steps=5", "optimizer.warmup=0", "callbacks.checkpoint.every=2"][1:]
    failed = shell.run(arguments.printed({"run_dir": FOLDER}, words=words))
    assert failed.returncode == 1, failed.stderr
    replayed = shell.run(command_in(failed.stderr, "to run that step again"), typed="c\nq\n")
    assert replayed.returncode == 1, replayed.stderr
    assert "do=replay of step 4 from" in replayed.stdout
    (shell.folder / "recipes/picks.py").write_text(PICKS.format(until=9))
    resumed = shell.run(command_in(failed.stderr, "once that is fixed, resume at step 2 with"))
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at step 2" in resumed.stdout
    assert json.loads((shell.folder / FOLDER / "run.json").read_text())["status"] == "completed"
    kept = json.loads((shell.folder / FOLDER / "run.json").read_text())["command"]
    assert "already finished" in shell.run(kept).stdout


def test_a_job_of_a_sweep_is_resumed_by_what_it_printed_on_a_narrow_terminal(shell):
    swept = ("optimizer.learning_rate=0.1,0.01", "optimizer.warmup=choice(0)")
    words = [*SMALL, *swept, "steps=1000000", "stop_after=1s"]
    code, seen = shell.on_terminal(
        arguments.printed({"run_dir": "sweep"}, words=["-m", *words, "callbacks.log.every=1000"]), columns=50
    )
    assert code == 143, seen
    resumed = shell.run(command_in(seen.partition("--- job 1")[0], "resume with"))
    assert resumed.returncode == 143, resumed.stderr
    assert "resumed at step" in resumed.stdout
    folders = sorted(path.parent.name for path in shell.folder.glob("**/run.json") if "sweep" in path.parts)
    jobs = [f"{n}-optimizer.learning_rate={rate},optimizer.warmup=0" for n, rate in enumerate((0.1, 0.01))]
    assert folders == jobs, "stop_after= of one job stops that job; no other training was started"
    assert not (shell.folder / "runs").exists()
    assert command_in(seen, "see their curves with") == "tensorboard --logdir sweep"
