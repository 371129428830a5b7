"""Data sets of TFDS that are no image classification: their TFRecord files are read by record, as batches are made.

Batches have the features under their own names; nested ones are flat (`objects/bbox`), and what varies in length is padded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modetrain.data.record_files import RecordFiles
from modetrain.data.record_index import RecordIndex
from modetrain.data.selection import select
from modetrain.data.source import Source
from modetrain.data.sources import splits
from modetrain.data.sources.record_folder import of_tfds
from modetrain.errors import ConfigError
from modetrain.settings import DataSettings


def read(builder: Any, settings: DataSettings, *, kind: str, where: str, description: str) -> Source:
    """The splits that the settings name.

    Raises:
      ConfigError: they are not prepared as TFRecord files, or an expression cannot be read.
    """
    if builder.info.file_format.value != "tfrecord":
        raise ConfigError(
            f"{where}: prepared as {builder.info.file_format.value}, and only TFRecord files are read. "
            f"Prepare it again with `tfds build {settings.name} --file_format=tfrecord`."
        )
    expressions = splits.wanted(settings)
    names = dict.fromkeys(name for expression in expressions.values() for name in splits.split_names(expression))
    indexes = {
        name: RecordIndex.of([Path(file) for file in builder.info.splits[name].filepaths])
        for name in (builder.info.splits if "all" in names else names)
    }
    for name, index in indexes.items():
        expected = builder.info.splits[name].num_examples
        if len(index) != expected:
            raise ConfigError(
                f"{where}, split {name}: {len(index):,} examples were found, {expected:,} were expected. "
                "Prepare or copy it again."
            )
    decode, facts = of_tfds(builder.info.features, settings.image_size, next(iter(indexes.values())))
    found = {
        name: RecordFiles(index, decode, name=f"the split {name} of {where}", on_error=settings.on_error)
        for name, index in indexes.items()
    }
    chosen = {key: select(found, key, expression, where) for key, expression in expressions.items()}
    evaluations = splits.evals(chosen)
    named = {"train": chosen["train_split"], **{name or "evaluation": split for name, split in evaluations.items()}}
    counts = ", ".join(f"{split.examples:,} {name}" for name, split in named.items())
    return Source(
        kind=kind,
        description=f"{description} ({counts})",
        train=chosen["train_split"],
        evals=evaluations,
        facts=facts,
    )
