"""Several runs from one command line, `-m mode=eager,graph,xla`: which they are, every one checked before the first begins.

jobs = plan(words, cwd, config_dirs, load=load)
code = sweep_run.run(jobs, words, cwd, config_dirs)
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from modetrain.app import check
from modetrain.cluster import environment
from modetrain.config import hydra_main, overrides, resumed
from modetrain.config.arguments import CommandLine
from modetrain.errors import ConfigError, did_you_mean
from modetrain.files import paths, quoting
from modetrain.settings import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep.

    Attributes:
      overrides: its overrides, without `run_dir`.
      swept: the overrides that differ from job to job.
      run_dir: its folder; None makes one under runs/ when it starts.
      settings: its checked settings.
    """

    overrides: tuple[str, ...]
    swept: tuple[str, ...]
    run_dir: str | None
    settings: Settings

    @property
    def name(self) -> str:
        return " ".join(self.swept) or "the only one"


def plan(
    arguments: Sequence[str],
    cwd: Path,
    config_dirs: Sequence[str] = (),
    *,
    load: Callable[..., Settings] = check.load,
) -> list[Job]:
    """Expands the values given for each key into jobs, and checks every one.

    Args:
      arguments: overrides; of a sweeper other than Hydra's basic one only those without several values are checked.
      cwd, config_dirs: as in `config.load`.
      load: makes and checks the settings of a job.

    Raises:
      ConfigError: any job cannot run, or two would share a run folder.
    """
    folders = paths.conf_dirs(cwd, [*config_dirs, *overrides.search_path(arguments)])
    _check_plugins(arguments)
    jobs = []
    problems: dict[str, str] = {}
    for index, (chosen, swept) in enumerate(_combinations(arguments, folders)):
        try:
            jobs.append(make_job(index, chosen, swept, cwd, config_dirs, load))
        except ConfigError as error:
            for line in str(error).splitlines():
                problems.setdefault(line, f"job {index} ({' '.join(swept) or 'the only one'})")
    if problems:
        raise ConfigError("\n".join(f"{where}: {line}" for line, where in problems.items()))
    _check_folders(jobs)
    return jobs


def make_job(
    index: int,
    chosen: Sequence[str],
    swept: Sequence[str],
    cwd: Path,
    config_dirs: Sequence[str],
    load: Callable[..., Settings],
) -> Job:
    """Checks one combination of values, and names its folder."""
    # ~run_dir names no folder, and is refused where the job is checked.
    run_dir = next((one for one in chosen if quoting.key_of(one) == "run_dir" and not one.startswith("~")), None)
    rest = [override for override in chosen if override != run_dir]
    folder = None
    if run_dir is not None:
        # One folder given for all jobs becomes a folder of folders.
        folder = overrides.value_of(run_dir)
        folder = folder if run_dir in swept else f"{folder}/{_folder_name(index, swept)}"
    own = [quoting.override("run_dir", folder, interpolated=True)] if folder else []
    # resume=a,b without a recipe: each job has the words of its run.
    line = resumed.expand(CommandLine(overrides=(*rest, *own), config_dirs=tuple(config_dirs)), cwd)
    settings = load(line.overrides, cwd, line.config_dirs)
    if settings.do in ("train", "evaluate"):
        try:
            environment.check(settings.mode, os.environ)
        except ConfigError as error:
            mode = next((word for word in swept if quoting.key_of(word) in ("mode", "mode.strategy")), None)
            if mode is None or "mode.workers=2" not in str(error):
                raise
            raise ConfigError(
                f"{mode}: neither TF_CONFIG nor Slurm nor Kubernetes describes other workers, and other jobs of the sweep would "
                f"refuse mode.workers=2. Leave {mode} out, and run it by itself: {mode} mode.workers=2 without -m."
            ) from None
    return Job(overrides=tuple(rest), swept=tuple(swept), run_dir=folder, settings=settings)


def _check_plugins(arguments: Sequence[str]) -> None:
    for kind in ("launcher", "sweeper"):
        typed = next((word for word in arguments if quoting.key_of(word) == f"hydra/{kind}"), None)
        known = hydra_main.plugins(kind) if typed is not None else []
        name = typed.partition("=")[2] if typed is not None else ""
        if typed is not None and name not in known:
            raise ConfigError(
                f"{typed}: no such {kind} is installed; there is {', '.join(known)}.{did_you_mean(name, known)} Install it "
                f"(pip install hydra-{name}-{kind}), or leave hydra/{kind} out."
            )


def _combinations(arguments: Sequence[str], folders: Sequence[Path]) -> Iterator[tuple[list[str], list[str]]]:
    """Yields for each job its overrides, and those that were swept."""
    choices: list[list[str]] = []
    swept: list[bool] = []
    chooses = any(quoting.key_of(word) == "hydra/sweeper" and word != "hydra/sweeper=basic" for word in arguments)
    for override in overrides.parse(arguments, folders, sweep=True):
        line, varies = overrides.line(override), override.is_sweep_override()
        if quoting.key_of(line).startswith(overrides.HYDRA_MULTIRUN) or (varies and chooses):
            continue
        if not varies:
            choices.append([line])
            swept.append(False)
            continue
        key = override.get_key_element()
        values = overrides.expand(override, folders)
        if not values:
            raise ConfigError(f"{line}: it has no value, so there is nothing to run. Type {key}=VALUE,VALUE.")
        choices.append([f"{key}={value}" for value in values])
        swept.append(True)
    for combination in itertools.product(*choices):
        yield list(combination), [one for one, varies in zip(combination, swept, strict=True) if varies]


def _folder_name(index: int, swept: Sequence[str]) -> str:
    """A folder name that distinguishes the jobs: `0-mode=eager,optimizer.learning_rate=0.1`."""
    text = re.sub(r"[^\w.,=+-]", "_", ",".join(swept))[:120]
    return f"{index}-{text}" if text else str(index)


def _check_folders(jobs: Sequence[Job]) -> None:
    seen: dict[Path, Job] = {}
    for job in jobs:
        folder = job.settings.run_dir
        if folder is None:
            continue
        if folder in seen:
            fix = "resume=PATH of a run, which starts a new one from it" if job.run_dir is None else "run_dir=FOLDER"
            raise ConfigError(
                f"{seen[folder].name} and {job.name}: both would run in {paths.format_path(folder, Path.cwd())}, where one "
                f"would overwrite the other. Type {fix}."
            )
        seen[folder] = job
