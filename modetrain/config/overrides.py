"""What is typed after the flags, `key=value` by `key=value`, in Hydra's grammar; what cannot be meant is refused here.

Hydra takes some of it silently (of two values for one key the last, any key of its own settings) and answers the rest
with advice that is wrong for a typo ("to append use +stepz=3").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modetrain.config import schema, suggest
from modetrain.config.key import text
from modetrain.errors import ConfigError, closest
from modetrain.files import quoting
from modetrain.files.paths import GROUPS, options

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override

# What people who know Hydra reach for, and what does it here.
INSTEAD_OF_HYDRA: Mapping[str, str] = {
    "hydra.run.": "run_dir=FOLDER",
    "hydra.sweep.": "run_dir=FOLDER",
    "hydra.output_subdir": "run_dir=FOLDER",
    "hydra.searchpath": "--config-dir FOLDER",
    "hydra.mode": "-m",
    "hydra/launcher": "-m, which runs every job in a process of its own",
    "hydra.launcher": "-m, which runs every job in a process of its own",
    "hydra/sweeper": "-m",
    "hydra.sweeper": "-m",
    "hydra.job.name": "run_dir=FOLDER",
    "hydra.job.chdir": "run_dir=FOLDER; the working folder is never changed",
    "hydra.job.env_set": "NAME=VALUE before the command, in the shell",
    "hydra/job_logging": "callbacks.log.every=STEPS",
    "hydra.job_logging": "callbacks.log.every=STEPS",
    "hydra.verbose": "callbacks.log.every=STEPS",
}

MAY_BE_LEFT_OUT = ("model", "callbacks", "debug")  # groups that null or ~ switches off
MAY_BE_SEVERAL = ("callbacks",)  # groups of which a list of options is merged


def parse(arguments: Sequence[str], folders: Sequence[Path], *, sweep: bool = False) -> list[Override]:
    """Parses the overrides of a command line.

    Args:
      arguments: what was typed, without the flags.
      folders: the folders configs are looked up in.
      sweep: whether several values for a key (`mode=eager,graph`) are allowed.

    Raises:
      ConfigError: one argument cannot be parsed, or cannot mean what it says.
    """
    for index, argument in enumerate(arguments):
        after = [word for word in arguments[index + 1 : index + 3] if word != "="]
        _check_words(argument, after[0] if after else None, folders)
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    parsed: list[Override] = []
    for argument in arguments:
        try:
            override = parser.parse_override(argument)
        except (HydraException, AssertionError) as error:
            raise _malformed(argument, error, parser) from None
        _check_once(override, parsed)
        if override.is_sweep_override() and not sweep:
            quoted = f", or {quoting.in_shell(_quoted(argument))} if it is one value."
            one = "." if override.key_or_group in groups(folders) else quoted
            raise ConfigError(
                f"{argument}: several values for one key, which is a run for each. Type -m {quoting.in_shell(argument)} for "
                f"one run after the other{one}"
            )
        parsed.append(override if override.is_sweep_override() else _check_group(override, folders, parser))
    return parsed


def key_of(word: str) -> str:
    """The key or group of an override as it was typed: `steps` of `steps=5`, of `+steps=5`, `++steps=5` and of `~steps`."""
    return word.partition("=")[0].lstrip("+~")


def groups(folders: Sequence[Path]) -> list[str]:
    """Every config group: modetrain's own, and the user's."""
    own = (entry.name for folder in folders for entry in folder.iterdir() if any(entry.glob("*.yaml")))
    return list(dict.fromkeys([*GROUPS, *sorted(own)]))


def _line(override: Override) -> str:
    return override.input_line or override.get_key_element()


def _quoted(argument: str) -> str:
    """The argument with its value in quotes of Hydra's grammar."""
    key, _, value = argument.partition("=")
    return quoting.override(key, value, interpolated=True)


def _check_words(argument: str, after: str | None, folders: Sequence[Path]) -> None:
    """Refuses what is not `key=value`, and Hydra's own settings; `after` is the word that follows."""
    bare = argument.lstrip("+~")
    if bare.startswith(("hydra.", "hydra/")):
        instead = next((text for start, text in INSTEAD_OF_HYDRA.items() if bare.startswith(start)), None)
        hint = f"Type {instead}." if instead else "Leave it out; --help lists what there is."
        raise ConfigError(f"{argument}: modetrain uses Hydra's configs only, its own settings have no effect. {hint}")
    if argument.startswith(("=", "@")):
        raise ConfigError(f"{argument}: there is no key before the =. Type key=value without spaces, as in steps=50.")
    if "=" in argument or (argument.startswith("~") and bare):
        return
    word = argument.strip()
    if word in groups(folders):
        names = options(word, folders)
        value = after if after in names else next(iter(names), "NAME")
        raise ConfigError(
            f"{argument}: which {word} is not said; there is {', '.join(names)}. Type {word}={value}, without spaces "
            "around the =."
        )
    if word in schema.KEYS:
        value = after if after is not None and "=" not in after else text(schema.KEYS[word].example)
        raise ConfigError(f"{argument}: a value is needed. Type {word}={value}, without spaces around the =.")
    known = {name: f"{group}={name}" for group in reversed(GROUPS) for name in options(group, folders)}
    near = closest(word, known)
    hint = f"Did you mean {known[near]}?" if near else "Type for example recipe=mnist; --help lists what there is."
    raise ConfigError(f"{argument!r}: a word alone says nothing, every argument is a flag or key=value. {hint}")


def _malformed(argument: str, error: Exception, parser: OverridesParser) -> ConfigError:
    # ANTLR goes on with a list of everything that it would have taken.
    reason = (str(error).strip().splitlines() or ["a value is needed"])[0].partition(" expecting ")[0]
    try:
        parser.parse_override(_quoted(argument))
        fix = f"If the value is meant as it stands, quote it: {quoting.in_shell(_quoted(argument))}."
    except Exception:  # then it is the key that is wrong
        fix = suggest.sentence(key_of(argument), value=argument.partition("=")[2])
    return ConfigError(f"{argument}: not key=value in Hydra's grammar ({reason}). {fix}")


def _check_once(override: Override, before: Sequence[Override]) -> None:
    for other in before:
        if other.key_or_group == override.key_or_group:
            raise ConfigError(
                f"{_line(other)} and {_line(override)}: {override.key_or_group} is given twice, and only one can take "
                f"effect. Keep one of them, for example {_line(override)}."
            )


def _check_group(override: Override, folders: Sequence[Path], parser: OverridesParser) -> Override:
    """Refuses an option that a group does not have; `group=null` becomes `~group`, which Hydra has for it."""
    group, value, line = override.key_or_group, override.value(), _line(override)
    if override.package is not None:
        raise ConfigError(f"{line}: modetrain's groups have one place each. Type {group}={value}, without the @.")
    if group not in groups(folders) or isinstance(value, dict):
        return override
    names = options(group, folders)
    listed = f"{group} is one of {', '.join(names)}." if names else f"No folder has a {group}/ with files in it."
    if override.is_delete() or (value is None and not override.is_add()):
        if group in GROUPS and group not in MAY_BE_LEFT_OUT:
            raise ConfigError(f"{line}: a run needs one. {listed} Type for example {group}={next(iter(names))}.")
        deletion = parser.parse_override(f"~{group}")
        deletion.input_line = line
        return deletion
    if isinstance(value, list) and group not in MAY_BE_SEVERAL:
        several = ",".join(str(name) for name in value)
        raise ConfigError(f"{line}: a run has one {group}. Type -m {group}={several} for a run with each.")
    # What Hydra's grammar reads as a number names a file here: debug=nan.
    chosen = override.get_value_string() if not isinstance(value, str | list) else value
    for name in chosen if isinstance(chosen, list) else [chosen]:
        if not (name in names or (isinstance(name, str) and "/" in name and _exists(group, name, folders))):
            near = closest(str(name).lower(), names)
            hint = f"Did you mean {group}={near}?" if near else f"Type for example {group}={next(iter(names), 'NAME')}."
            raise ConfigError(f"{line}: there is no file {group}/{name}.yaml in a config folder. {listed} {hint}")
    if group in GROUPS and (override.is_add() or override.is_force_add()):
        raise ConfigError(f"{line}: + adds what is not there, and there always is a {group}. Type {line.lstrip('+')}.")
    return override if chosen is value else dataclasses.replace(override, _value=chosen)


def _exists(group: str, name: str, folders: Sequence[Path]) -> bool:
    return any((folder / group / f"{name}.yaml").is_file() for folder in folders)


def expand(override: Override, folders: Sequence[Path]) -> list[str]:
    """The values of an override that gives several, as they would be typed.

    Raises:
      ConfigError: they cannot be listed (an interval), or the range is none.
    """
    from hydra.errors import HydraException

    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{_line(override)}: an interval has no end of values. Type the values, separated by commas, or "
            f"{override.key_or_group}=range(FROM,TO,STEP)."
        )
    # glob(*) asks it for the options of the group.
    override.config_loader = _Options(folders)  # type: ignore[assignment]
    try:
        return list(override.sweep_string_iterator())
    except (HydraException, ValueError) as error:
        raise ConfigError(f"{_line(override)}: {error}. Type the values, separated by commas.") from None


class _Options:
    """As much of Hydra's config loader as `glob()` needs."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = folders

    def get_group_options(self, group_name: str, results_filter: object = None) -> list[str]:
        return list(options(group_name, self.folders))


def value_of(argument: str) -> str:
    """The value of an override as a text, without quotes; interpolations stay."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return str(OverridesParser.create().parse_override(argument).value())


def resolved_value_of(argument: str) -> Any:
    """The value of an override by itself, with interpolations resolved.

    Raises:
      ConfigError: it cannot be parsed, or its interpolation refers to what is not there.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parser = OverridesParser.create()
    try:
        return OmegaConf.create({"value": parser.parse_override(argument).value()}).value
    except (HydraException, AssertionError) as error:
        raise _malformed(argument, error, parser) from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{argument}: {str(error).splitlines()[0]}. Type the value itself.") from None
