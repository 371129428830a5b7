"""Files that are written whole or not at all."""

from __future__ import annotations

import resource

import pytest

from modetrain.files import atomic


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "note.json"
    atomic.write_text(path, "old\n")
    atomic.write_text(path, "new: ä\n")
    assert path.read_text(encoding="utf-8") == "new: ä\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_whole_leaves_the_old_file(tmp_path):
    """The limit on the size of a file stands for a disk that is full."""
    path = tmp_path / "state"
    atomic.write_bytes(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            atomic.write_bytes(path, b"new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
