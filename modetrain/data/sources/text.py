"""Text files for language models: `data=text`. An example is a window of tokens, by default bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from modetrain.data.sources.arrays import check_memory
from modetrain.data.sources.messages import format_path
from modetrain.errors import ConfigError
from modetrain.files.paths import visible
from modetrain.schema import Bounds

if TYPE_CHECKING:
    from modetrain.data.source import Splits

BYTES = 256
_SEPARATOR = b"\0"  # between files, so that no window seems to continue in the next file
_HELD_OUT = 0.1  # of the windows, where there is no file for it


def load(
    path: str,
    *,
    window: Annotated[int, Bounds(at_least=1)] = 128,
    files: str = "**/*",
    tokenizer: Callable[[str], Sequence[int]] | None = None,
    vocabulary: Annotated[int, Bounds(at_least=2)] | None = None,
) -> Splits:
    """Windows of the text in a file or a folder: `tokens` int32 [window] and, moved on by one, `targets` int32 [window].

    A folder with `train` and `validation` or `test` (files or folders of that name) has these splits. Else a tenth of the text,
    its end, is `validation`.

    Args:
      path: a file, or a folder of files.
      window: tokens of an example.
      files: which files of a folder, as a pattern.
      tokenizer: makes whole numbers from 0 of a text; by default the text's bytes in UTF-8.
      vocabulary: how many tokens there are; by default 256 for bytes, else the largest that occurs plus one.

    Raises:
      ConfigError: there is no text, or too little for a window.
    """
    given = Path(path).expanduser()
    if not given.exists():
        raise ConfigError(f"data.path={path}: there is no such file or folder. Type data.path= with one that has text.")
    parts = {name: found for name in ("train", "validation", "test") if (found := _part(given, name))}
    tokens = {name: _tokens(found, files, tokenizer) for name, found in (parts or {"": given}).items()}
    if parts and "train" not in parts:
        raise ConfigError(
            f"data.path={format_path(given)} has {', '.join(parts)} and no train. Add train.txt or a folder train."
        )
    known = vocabulary or (
        BYTES if tokenizer is None else 1 + max(int(some.max(initial=0)) for some in tokens.values())
    )
    return in_windows(tokens, window=window, vocabulary=known, where=f"text of {format_path(given)}")


def in_windows(tokens: Mapping[str, np.ndarray], *, window: int, vocabulary: int, where: str) -> Splits:
    """Splits of windows of tokens.

    Args:
      tokens: by split; a tenth of a single one without a name is `validation`.
      window: tokens of an example.
      vocabulary: how many tokens there are.
      where: what the text is, for messages.

    Raises:
      ConfigError: a split is shorter than a window, or has other tokens.
    """
    from modetrain.data.source import Splits

    if "" in tokens:
        whole = tokens[""]
        held = int(len(whole) * (1 - _HELD_OUT)) // window * window
        tokens = {"train": whole[:held], "validation": whole[held:]}
    return Splits(
        {name: _windows(some, window, f"the split {name} of the {where}", vocabulary) for name, some in tokens.items()},
        description=f"{where}, {sum(map(len, tokens.values())):,} tokens",
        vocabulary=vocabulary,
        window=window,
    )


def _part(folder: Path, name: str) -> Path | None:
    """The file or folder of a split."""
    found = [one for one in visible(folder, f"{name}*") if one.stem == name] if folder.is_dir() else []
    return found[0] if found else None


def _tokens(path: Path, pattern: str, tokenizer: Callable[[str], Sequence[int]] | None) -> np.ndarray:
    """The tokens of a file, or of all files of a folder in the order of their names."""
    files = [path] if path.is_file() else [one for one in sorted(visible(path, pattern)) if one.is_file()]
    size = sum(one.stat().st_size for one in files)
    check_memory(
        size * 4, "the tokens", format_path(path), advice="Type data.files= with a pattern that fewer files match."
    )
    texts = [one.read_bytes() for one in files]
    if tokenizer is None:
        return np.frombuffer(_SEPARATOR.join(texts), np.uint8)
    found = []
    for file, text in zip(files, texts, strict=True):
        try:
            found.append(np.asarray(tokenizer(text.decode("utf-8")), np.int32))
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{format_path(file)}: byte {error.start} is no UTF-8. Save it as UTF-8, or type data.tokenizer=null for bytes."
            ) from error
    return np.concatenate(found) if found else np.zeros(0, np.int32)


def _windows(tokens: np.ndarray, window: int, where: str, vocabulary: int) -> dict[str, np.ndarray]:
    count = (len(tokens) - 1) // window
    if count < 1:
        raise ConfigError(
            f"data.window={window}: {where} has {len(tokens):,} tokens, and a window needs {window + 1:,}. Type "
            f"data.window={max(len(tokens) - 1, 1)} or less, or give more text."
        )
    highest, lowest = int(tokens.max()), int(tokens.min())
    if lowest < 0 or highest >= vocabulary:
        raise ConfigError(
            f"data.vocabulary={vocabulary}: {where} has tokens from {lowest} to {highest}. Type data.vocabulary={highest + 1}."
        )
    kept = tokens[: count * window + 1]
    return {
        "tokens": kept[:-1].reshape(count, window).astype(np.int32),
        "targets": kept[1:].reshape(count, window).astype(np.int32),
    }
