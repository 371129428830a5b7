"""The names of TFDS's data sets, found without importing TFDS (one second) or TensorFlow (five seconds)."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

from modetrain.data.sources.messages import BUNDLED, format_path
from modetrain.errors import ConfigError, did_you_mean
from modetrain.files.paths import visible
from modetrain.settings import DataSettings

_NAME = re.compile(r"(?P<base>[A-Za-z_]\w*)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")


def data_dir(settings: DataSettings) -> str:
    """TFDS's data folder: `data.dir`, else `TFDS_DATA_DIR`, else TFDS's default."""
    given = settings.dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    return os.path.expanduser(given)


def check(settings: DataSettings) -> None:
    """Raises ConfigError for a name that neither TFDS nor the data folder has, and for a data folder that is a file."""
    if settings.dir is not None and Path(settings.dir).is_file():
        raise ConfigError(
            f"data.dir={format_path(settings.dir)}: TFDS keeps data in a folder, and that is a file. Type data.dir=FOLDER."
        )
    match = _NAME.fullmatch(settings.name)
    if not match:
        raise ConfigError(
            f"data.name={settings.name}: not the name of a TFDS data set. A name, a configuration and a version are "
            "written as data.name=mnist, data.name=emnist/letters or data.name=mnist:3.0.1."
        )
    base = match["base"]
    if not (Path(data_dir(settings)) / base).is_dir():
        known = shipped_names()
        # Imported code may have registered its own data sets with TFDS.
        if known and base not in known and "tensorflow_datasets" in sys.modules:
            known |= registered_names()
        if known and base not in known:
            raise unknown_name(settings, known)
    can_be_had = settings.download or (settings.source == "auto" and settings.name == BUNDLED)
    if not can_be_had and not find_infos(settings):
        raise ConfigError(
            f"data.name={settings.name} data.download=false: it is not prepared in {format_path(data_dir(settings))}. Type "
            "data.download=true to download it, or data.dir=FOLDER in which TFDS has prepared it."
        )


def find_infos(settings: DataSettings) -> list[Path]:
    """TFDS's descriptions (`dataset_info.json`) of the prepared configurations and versions that the name allows."""
    match = _NAME.fullmatch(settings.name)
    if not match:
        return []
    folder = Path(data_dir(settings)) / match["base"] / (match["config"] or "")
    found = [*visible(folder, "*/dataset_info.json"), *visible(folder, "*/*/dataset_info.json")]
    return [file for file in found if match["version"] in (None, file.parent.name)]


def unknown_name(settings: DataSettings, known: set[str]) -> ConfigError:
    """The error for a name that TFDS does not know."""
    meant = did_you_mean(settings.name.split("/")[0].split(":")[0], known)
    return ConfigError(
        f"data.name={settings.name}: TFDS has no data set of that name, and none is prepared in "
        f"{format_path(data_dir(settings))}.{meant} Type data.name={BUNDLED} or another name of "
        "https://www.tensorflow.org/datasets/catalog, or data=folder data.path=DIR for your own data."
    )


def registered_names() -> set[str]:
    """Names of the data sets that TFDS has imported code for; imports TFDS."""
    import tensorflow_datasets as tfds

    # For the community's data sets it would ask a cloud bucket, and wait for ever without a network.
    return set(tfds.list_builders(with_community_datasets=False))


def shipped_names() -> set[str]:
    """Names of the data sets that the installed TFDS has code for, by its file names.

    Robotics and text sets that share one file are missing; they are not image classification.
    """
    spec = importlib.util.find_spec("tensorflow_datasets")
    if spec is None or not spec.submodule_search_locations:
        return set()
    names: set[str] = set()
    for part in ("datasets", "url_checksums", "image_classification"):
        folder = Path(spec.submodule_search_locations[0]) / part
        if folder.is_dir():
            names.update(entry.name.split(".")[0] for entry in folder.iterdir() if not entry.name.startswith("_"))
    return names
