"""What is typed after the flags, `key=value` by `key=value`, in Hydra's grammar; what cannot be meant is refused here.

Hydra takes some of it silently (of two values for one key the last, any key of its own settings) and answers the rest
with advice that is wrong for a typo ("to append use +stepz=3").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modetrain.config import suggest
from modetrain.config.arguments import ROOT
from modetrain.errors import ConfigError, closest
from modetrain.files import quoting
from modetrain.files.paths import GROUPS, find_options, visible
from modetrain.files.quoting import key_of
from modetrain.keys import KEYS
from modetrain.schema import text

if TYPE_CHECKING:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Override

# Hydra's own settings that have an effect here; the second ones only with -m.
HYDRA, HYDRA_MULTIRUN = (
    ("hydra.searchpath", ROOT),
    ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper"),
)
# What people who know Hydra reach for besides, and what does it here.
INSTEAD_OF_HYDRA: Mapping[str, tuple[str, ...]] = {
    "run_dir=FOLDER": ("hydra.run.", "hydra.sweep.", "hydra.output_subdir", "hydra.job.name", "hydra.job.chdir"),
    "-m": ("hydra.mode",),
    "NAME=VALUE before the command, in the shell": ("hydra.job.env_set",),
    "callbacks.log.every=STEPS": ("hydra/job_logging", "hydra.job_logging", "hydra.verbose"),
}

MAY_BE_LEFT_OUT = ("model", "callbacks", "debug")  # groups that null or ~ switches off
MAY_BE_SEVERAL = ("callbacks",)  # groups that take a list of options, which are merged


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
        _check_word(argument, after[0] if after else None, folders, sweep)
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    parsed: list[Override] = []
    for argument in arguments:
        try:
            override = parser.parse_override(argument)
        except (HydraException, AssertionError) as error:
            raise _malformed(argument, error, parser) from None
        for other in parsed:
            if other.key_or_group == override.key_or_group:
                raise ConfigError(
                    f"{line(other)} and {argument}: {other.key_or_group} is given twice, and only one can take effect. Keep "
                    f"one of them, for example {quoting.in_sentence(argument)}."
                )
        if override.is_sweep_override() and not sweep:
            quoted = f", or {quoting.quote_word(_quoted(argument))} if it is one value."
            one = "." if override.key_or_group in groups(folders) else quoted
            raise ConfigError(
                f"{argument}: several values for one key, which is a run for each. Type -m {quoting.quote_word(argument)} for "
                f"one run after the other{one}"
            )
        if not override.is_sweep_override():
            _check_group(override, folders)
        parsed.append(override)
    return parsed


def search_path(arguments: Sequence[str]) -> list[str]:
    """The folders of `hydra.searchpath=[...]`, where Hydra looks for configs too."""
    import importlib.util

    from hydra.core.override_parser.overrides_parser import OverridesParser

    typed = [word for word in arguments if key_of(word) == "hydra.searchpath"]
    given: Any = [OverridesParser.create().parse_override(word).value() for word in typed]
    found = []
    for one in (str(one) for each in given for one in (each if isinstance(each, list) else [each])):
        spec = (
            importlib.util.find_spec(one.removeprefix("pkg://").replace("/", ".")) if one.startswith("pkg://") else None
        )
        found.append(next(iter(spec.submodule_search_locations or ()), one) if spec else one.removeprefix("file://"))
    return found


def line(override: Override) -> str:
    """An override as it was typed."""
    return override.input_line or override.get_key_element()


def groups(folders: Sequence[Path]) -> list[str]:
    """Every config group: modetrain's own, and the user's."""
    own = (entry.name for folder in folders for entry in visible(folder) if visible(entry, "*.yaml"))
    return list(dict.fromkeys([*GROUPS, *sorted(own)]))


def value_of(argument: str) -> str:
    """The value of an override as a text, without quotes; interpolations stay."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return str(OverridesParser.create().parse_override(argument).value())


def expand(override: Override, folders: Sequence[Path]) -> list[str]:
    """The values of an override that gives several, as they would be typed.

    Raises:
      ConfigError: they cannot be listed (an interval), or the range is none.
    """
    from hydra.errors import HydraException

    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{line(override)}: an interval has no end of values. Type the values, separated by commas, or "
            f"{override.key_or_group}=range(FROM,TO,STEP)."
        )
    # glob(*) asks it for the options of the group.
    override.config_loader = _Options(folders)  # type: ignore[assignment]
    try:
        return list(override.sweep_string_iterator())
    except (HydraException, ValueError) as error:
        raise ConfigError(f"{line(override)}: {error}. Type the values, separated by commas.") from None


class _Options:
    """As much of Hydra's config loader as `glob()` needs."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = folders

    def get_group_options(self, group_name: str, results_filter: object = None) -> list[str]:
        return list(find_options(group_name, self.folders))


def for_hydra(override: Override) -> str:
    """The choice of a group's option as Hydra takes it: `~group` for null, and quoted what its grammar reads as a number."""
    value, key = override.value(), override.get_key_element()
    if value is None and not override.is_delete():
        return f"~{override.key_or_group}"
    if override.is_delete() or isinstance(value, list):
        return line(override)
    return f"{key}={option(value if isinstance(value, str) else override.get_value_string())}"


def option(name: str) -> str:
    """The name of an option, quoted where it would be read as something else: `debug=nan`."""
    return name if re.fullmatch(r"(?!(null|nan|inf|true|false)$)[A-Za-z_][\w./-]*", name, re.I) else f"'{name}'"


# --- what cannot be meant --------------------------------------------------------------------------------------------


def _quoted(argument: str) -> str:
    """The argument with its value in quotes of Hydra's grammar."""
    key, _, value = argument.partition("=")
    return quoting.override(key, value, interpolated=True)


def _check_word(argument: str, after: str | None, folders: Sequence[Path], sweep: bool) -> None:
    """Refuses what is not `key=value`, and settings of Hydra without an effect; `after` is the word that follows."""
    bare = argument.lstrip("+~")
    if bare.startswith(("hydra.", "hydra/")) and not bare.startswith(HYDRA):
        if bare.startswith(HYDRA_MULTIRUN):
            if not sweep:
                raise ConfigError(
                    f"{argument}: only a multirun has it. Type -m {quoting.in_sentence(argument)} with several values for a key."
                )
            return
        instead = next((one for one, starts in INSTEAD_OF_HYDRA.items() if bare.startswith(starts)), None)
        hint = f"Type {instead}." if instead else "Leave it out; --help lists what there is."
        raise ConfigError(f"{argument}: this setting of Hydra has no effect in modetrain. {hint}")
    if argument.startswith(("=", "@")):
        raise ConfigError(f"{argument}: there is no key before the =. Type key=value without spaces, as in steps=50.")
    if "=" in argument or (argument.startswith("~") and bare):
        return
    word = argument.strip()
    if word in groups(folders):
        names = find_options(word, folders)
        value: Any = after if after in names else next(iter(names), "NAME")
        raise ConfigError(
            f"{argument}: which {word} is not said; there is {', '.join(names)}. Type {word}={value}, without spaces "
            "around the =."
        )
    if word in KEYS:
        value = after if after is not None and "=" not in after else text(KEYS[word].example)
        raise ConfigError(f"{argument}: a value is needed. Type {word}={value}, without spaces around the =.")
    known = {name: f"{group}={name}" for group in reversed(GROUPS) for name in find_options(group, folders)}
    near = closest(word, known)
    hint = f"Did you mean {known[near]}?" if near else "Type for example recipe=mnist; --help lists what there is."
    raise ConfigError(f"{argument!r}: expected key=value or a flag. {hint}")


def _malformed(argument: str, error: Exception, parser: OverridesParser) -> ConfigError:
    # ANTLR goes on with a list of everything that it would have taken.
    reason = (str(error).strip().splitlines() or ["a value is needed"])[0].partition(" expecting ")[0]
    try:
        parser.parse_override(_quoted(argument))
        fix = f"If the value is meant as it stands, quote it: {quoting.quote_word(_quoted(argument))}."
    except Exception:  # then it is the key that is wrong
        fix = suggest.sentence(key_of(argument), value=argument.partition("=")[2])
    return ConfigError(f"{argument}: not key=value in Hydra's grammar ({reason}). {fix}")


def _check_group(override: Override, folders: Sequence[Path]) -> None:
    """Refuses an option that a group does not have."""
    group, value, typed = override.key_or_group, override.value(), line(override)
    if override.package is not None:
        raise ConfigError(f"{typed}: modetrain's groups have one place each. Type {group}={value}, without the @.")
    if group not in groups(folders) or isinstance(value, dict):
        return
    names = find_options(group, folders)
    listed = f"{group} is one of {', '.join(names)}." if names else f"No folder has a {group}/ with files in it."
    if override.is_delete() or (value is None and not override.is_add()):
        if group in GROUPS and group not in MAY_BE_LEFT_OUT:
            raise ConfigError(f"{typed}: a run needs one. {listed} Type for example {group}={next(iter(names))}.")
        return
    if isinstance(value, list) and group not in MAY_BE_SEVERAL:
        several = ",".join(str(name) for name in value)
        raise ConfigError(f"{typed}: a run has one {group}. Type -m {group}={several} for a run with each.")
    # What Hydra's grammar reads as a number names a file here: debug=nan.
    for name in (
        value if isinstance(value, list) else [value if isinstance(value, str) else override.get_value_string()]
    ):
        if not any((folder / group / f"{name}.yaml").is_file() for folder in folders):
            near = closest(str(name).lower(), names)
            hint = f"Did you mean {group}={near}?" if near else f"Type for example {group}={next(iter(names), 'NAME')}."
            raise ConfigError(f"{typed}: there is no file {group}/{name}.yaml in a config folder. {listed} {hint}")
    if group in GROUPS and (override.is_add() or override.is_force_add()):
        raise ConfigError(
            f"{typed}: + adds what is not there, and there always is a {group}. Type {quoting.in_sentence(typed.lstrip('+'))}."
        )


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
