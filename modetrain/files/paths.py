"""The folders of configs and recipes: the shipped conf/ and recipes/, and the user's own.

The user's files always come first: a file of the same name overrides the shipped one, and any other file is added.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import IO

from modetrain.errors import ConfigError

GROUPS = ("recipe", "model", "data", "optimizer", "mode", "callbacks", "debug", "do")


def shipped_dir() -> Path:
    """The folder that holds the shipped `conf/` and `recipes/`: inside an installed wheel, or the checkout."""
    package = Path(__file__).resolve().parents[1]
    # The wheel's copy first: another package may install a folder `conf` next to this one.
    return package / "shipped" if (package / "shipped").is_dir() else package.parent


def conf_dirs(cwd: Path, extra: Sequence[str] = ()) -> list[Path]:
    """The folders for configs; the first that has a file wins: `./conf`, `--config-dir`s, the shipped conf.

    Raises:
      ConfigError: an extra folder does not exist.
    """
    folders = [cwd / "conf"] if (cwd / "conf").is_dir() else []
    for given in extra:
        folder = expand(given, cwd)
        if not folder.is_dir():
            raise ConfigError(
                f"--config-dir {given}: there is no folder {folder}. Type --config-dir with a folder that holds config "
                "groups (recipe/, data/, ...), or leave it out: ./conf is found without it."
            )
        folders.append(folder)
    folders.append(shipped_dir() / "conf")
    return list(dict.fromkeys(folder.resolve() for folder in folders))


def visible(folder: Path, pattern: str = "*") -> list[Path]:
    """What a folder holds, sorted, without hidden files such as `._image.npy` and `.DS_Store`.

    Systems and editors leave those beside the user's own files.
    """
    found = (
        file
        for file in folder.glob(pattern)
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    return sorted(found)


def find_options(group: str, folders: Iterable[Path]) -> dict[str, Path]:
    """The options of one config group by name, each with the file that defines it."""
    found: dict[str, Path] = {}
    for folder in folders:
        for file in visible(folder / group, "*.yaml"):
            found.setdefault(file.stem, file)
    return dict(sorted(found.items()))


def describe(file: Path) -> str:
    """The description in a config file: its first comment line that is not a `@package` directive."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        if not line.startswith("#"):
            return ""
        text = line.lstrip("# ").strip()
        if text and not text.startswith("@package"):
            return text
    return ""


def expand(path: str, cwd: Path) -> Path:
    """A typed path: below `cwd` unless it is absolute; `~` is the home folder, and `./~` a file of that name."""
    # Path.expanduser also takes ./~ for the home folder, and raises for an unknown user.
    return cwd / os.path.expanduser(path)


def temporary_file() -> IO[bytes]:
    """A new temporary file.

    Raises:
      ConfigError: no folder for temporary files is usable; importing TensorFlow needs one too.
    """
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise ConfigError(
            f"no folder for temporary files can be written to ({error.strerror or error}), and TensorFlow needs one. Make room "
            "there, or name another folder before the command: TMPDIR=FOLDER python -m modetrain ..."
        ) from error


def format_path(path: Path, cwd: Path) -> str:
    """A path as people write it: relative to `cwd` if it is below it."""
    try:
        return str(path.relative_to(cwd))
    except ValueError:
        return str(path)


# --- recipes ---------------------------------------------------------------------------------------------------------


class RecipesFinder(MetaPathFinder):
    """Makes `import recipes` one package over several folders: the user's own first, then the shipped one.

    Attributes:
      folders: searched for `recipes.<name>` in this order. The first `__init__.py` is run, but none is needed.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = tuple(folders)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname != "recipes":
            return None
        locations = [str(folder) for folder in self.folders]
        for folder in self.folders:
            if (folder / "__init__.py").is_file():
                return importlib.util.spec_from_file_location(
                    fullname, folder / "__init__.py", submodule_search_locations=locations
                )
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = locations
        return spec


def recipes_dirs(cwd: Path) -> list[Path]:
    """The folders for `recipes.<name>`: `./recipes` if it exists, then the shipped recipes."""
    folders = [folder for folder in (cwd / "recipes", shipped_dir() / "recipes") if folder.is_dir()]
    return list(dict.fromkeys(folder.resolve() for folder in folders))


def install_recipes(cwd: Path) -> None:
    """Makes `recipes` and the user's own modules in `cwd` importable, for the console script and `python -m`.

    It imports nothing. A call with another folder forgets the recipes of the first.
    """
    folders = tuple(recipes_dirs(cwd))
    old = [finder for finder in sys.meta_path if isinstance(finder, RecipesFinder)]
    if not old or old[0].folders != folders:
        sys.meta_path[:] = [RecipesFinder(folders), *(finder for finder in sys.meta_path if finder not in old)]
        for name in [name for name in sys.modules if name.partition(".")[0] == "recipes"]:
            del sys.modules[name]
    if str(cwd) not in sys.path:
        sys.path.insert(0, str(cwd))
