"""What `replay.from=` names, and the command line that it stands for: a replay is configured as its run was.

    words = source.words(["do=replay", "replay.from=runs/.../capsules/step-138-nonfinite.npz", "mode=eager"], cwd)

Imports no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modetrain.config import arguments as command_line
from modetrain.config import load as config
from modetrain.config.overrides import resolved_value_of
from modetrain.errors import ConfigError
from modetrain.files import paths, run_folder, run_json
from modetrain.files.quoting import key_of
from modetrain.keys import affects

if TYPE_CHECKING:
    from modetrain.checkpoints.capsule import Capsule
    from modetrain.settings import Settings

log = logging.getLogger(__name__)

DO, FROM, STEP = "do=replay", "replay.from", "replay.step"
# Of a mode, what decides the numbers; it may stand in the file of a preset.
_DECIDES = ("precision", "deterministic", "guards")
_PRESETS_OF_THE_RUN = ("nan", "profile", "rehearse")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplaySource:
    """A run that steps can be taken from.

    Attributes:
      path: the capsule, run folder or checkpoint.
      folder: its run folder; None for a capsule that was moved.
      command: of the run.
      config: its resolved configuration.
      capsule: where the path is one.
    """

    path: Path
    folder: Path | None
    command: str
    config: Mapping[str, Any]
    capsule: Capsule | None = None

    @property
    def replicas(self) -> int | None:
        """How many replicas the run had; None where nothing tells."""
        if self.capsule is not None:
            return int(self.capsule.made_on.get("replicas", 1))
        said = run_json.read(self.folder) if self.folder is not None else {}
        return ((said.get("mode") or {}).get("effective") or {}).get("replicas")


def find_source(path: Path) -> ReplaySource:
    """Finds out what a path is.

    Raises:
      ConfigError: nothing that can be replayed.
    """
    named = f"{FROM}={paths.format_path(path, Path.cwd())}"
    if not path.exists():
        raise ConfigError(
            f"{named}: there is no such file or folder. Type {FROM}= with a capsule (in the folder capsules/ of a run that "
            "failed), a run folder or a checkpoint."
        )
    if path.is_file():
        from modetrain.checkpoints import capsule

        if path.suffix != ".npz":
            raise ConfigError(
                f"{named}: neither a capsule nor a checkpoint. Type {FROM}= with a file .npz, or a run folder."
            )
        folder = path.parent.parent
        if path.parent.name != run_folder.CHECKPOINTS:
            made = capsule.load(path)
            own = folder if path.parent.name == capsule.FOLDER and run_folder.holds_run(folder) else None
            return ReplaySource(path=path, folder=own, command=made.command, config=made.config, capsule=made)
        return dataclasses.replace(_of_folder(folder, named), path=path)
    return _of_folder(path, named)


def load(arguments: Sequence[str], cwd: Path, config_dirs: Sequence[str] = ()) -> Settings:
    """The settings of a replay, checked: those of the whole command line that it stands for (see `words`).

    Raises:
      ConfigError: the replay cannot be made.
    """
    expanded, dirs, _ = words(arguments, cwd)
    dirs = [*dirs, *config_dirs]
    settings = config.load(expanded, cwd, dirs, command=command_line.written(arguments, config_dirs))
    choose_step(find_source(Path(str(settings.replay.path))), settings)
    return settings


def words(arguments: Sequence[str], cwd: Path) -> tuple[list[str], list[str], ReplaySource]:
    """The whole command line of a replay: that of the run it is from, and what was typed over it.

    Returns:
      The overrides, the folders of configs (`--config-dir`) of the run, and the run.

    Raises:
      ConfigError: `replay.from=` is missing, or names nothing that can be replayed.
    """
    word = next((word for word in arguments if key_of(word) == FROM), f"{FROM}=null")
    given = resolved_value_of(word)
    if given in (None, ""):
        raise ConfigError(
            f"{DO} without {FROM}=: there is no step to make again. Type {FROM}= with a capsule, which a run that fails "
            f"writes and names, or with a run folder and {STEP}=."
        )
    found = find_source(paths.expand(str(given), cwd).resolve())
    if not found.command:
        raise ConfigError(f"{FROM}={given}: it does not say by which command it was made. Type the folder of a run.")
    line = command_line.read(found.command)
    typed = {key_of(word) for word in arguments}
    moded = "mode" in typed
    was = found.config.get("mode") or {}
    of_preset = [f"mode.{key}={_text(was[key])}" for key in _DECIDES if key in was and f"mode.{key}" not in typed]
    kept = [word for word in line.overrides if _is_kept(word, typed)]
    if moded:
        kept = [word for word in kept if key_of(word) != "mode.strict"]
    else:  # as the run's steps were compiled, on one device
        kept.append(f"mode={_compile(found)}")
    kept = [word for word in kept if key_of(word).removeprefix("mode.") not in _DECIDES]
    return [*kept, *of_preset, *arguments], list(line.config_dirs), found


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def choose_step(source: ReplaySource, settings: Settings, *, warn: bool = False) -> tuple[ReplaySource, int]:
    """The wanted step (updates before it), and what it is run from: a capsule of the run where one fits.

    Args:
      source: what `replay.from=` names.
      settings: of the replay.
      warn: whether capsules that cannot be read are logged.

    Raises:
      ConfigError: there is no such step, or it is not said which.
    """
    wanted = settings.replay.step - 1 if settings.replay.step is not None else None
    made = source.capsule
    if made is None and source.path.is_dir():
        source = next(_complete_capsules(source.path, wanted, warn), source)
        made = source.capsule
    saved = run_folder.step_of(source.path) if source.path.is_file() else None
    if wanted is not None and saved is not None and wanted < saved:
        raise ConfigError(
            f"{STEP}={wanted + 1}: the checkpoint is of step {saved} already. Type {FROM}= with the run folder, "
            f"or {STEP}={saved + 1}."
        )
    if wanted is None and made is None and source.path.is_file():
        wanted = saved
    if wanted is None and made is None:
        raise ConfigError(
            f"{FROM}={settings.replay.path}: which step? The run has no capsule of a step that failed. Type "
            f"{STEP}= with its number, as log lines and messages have it."
        )
    number = wanted if wanted is not None or made is None else made.step
    assert number is not None
    if made is not None and number < made.state_step:
        raise ConfigError(
            f"{STEP}={number + 1}: the capsule's state is of step {made.state_step} already. Type {FROM}= with "
            f"the run folder, or {STEP}={made.step + 1}."
        )
    if number >= settings.steps and (
        made is None or number != made.step
    ):  # what is evaluated last comes after all steps
        raise ConfigError(f"{STEP}={number + 1}: the run had steps={settings.steps}. Type {STEP}= with one of them.")
    _check_replica(source, number, settings.replay.replica)
    return source, number


def _check_replica(source: ReplaySource, number: int, replica: int | None) -> None:
    if replica is None:
        return
    count = source.replicas
    if count is not None and replica >= count:
        has = f"replicas 0 to {count - 1}" if count > 1 else "one replica"
        raise ConfigError(f"replay.replica={replica}: the run had {has}. Leave it out, or type one of them.")
    made = source.capsule
    if made is not None and made.step == number and made.method == "eval_step":
        raise ConfigError(
            f"replay.replica={replica}: an evaluation batch is one replica's as a whole. Leave replay.replica out."
        )


def _complete_capsules(folder: Path, wanted: int | None, warn: bool) -> Iterator[ReplaySource]:
    """The complete capsules of a run of the step that is wanted, the newest first."""
    from modetrain.checkpoints import capsule

    for path in reversed(capsule.list_capsules(folder)):
        try:
            found = find_source(path)
        except ConfigError as error:
            if warn:
                log.warning(str(error))
            continue
        if found.capsule is not None and found.capsule.complete and wanted in (None, found.capsule.step):
            yield found


def _is_kept(word: str, typed: set[str]) -> bool:
    key = key_of(word)
    # What belongs to the run and not to its steps, or says how and where they ran, for which `mode=` of the replay stands.
    if key in typed or affects(key) & {"run", "placement"}:
        return False
    return not (key == "debug" and word.partition("=")[2] in _PRESETS_OF_THE_RUN)


def _compile(found: ReplaySource) -> str:
    return str((found.config.get("mode") or {}).get("compile", "graph"))


def _of_folder(folder: Path, named: str) -> ReplaySource:
    import yaml

    try:
        config = yaml.safe_load((folder / run_folder.CONFIG).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        config = None
    if not isinstance(config, dict):
        raise ConfigError(f"{named}: it holds no run ({run_folder.CONFIG} is missing). Type {FROM}= with a run folder.")
    return ReplaySource(path=folder, folder=folder, command=run_json.read(folder).get("command", ""), config=config)
