"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
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


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_what_a_file_system_does_not_have_is_done_without(tmp_path, monkeypatch, said, number):
    """A patched system call stands for exFAT and for mounts of clouds, which no test can make."""

    def unsupported(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    atomic._log_once.cache_clear()
    for name in ("link", "replace", "fsync"):
        monkeypatch.setattr(os, name, unsupported)
    path, other = tmp_path / "a", tmp_path / "b"
    for content in (b"old", b"new"):
        atomic.write_bytes(path, content)
    atomic.link(path, other)
    for one in (path, tmp_path):
        atomic.flush(one)
    assert path.read_bytes() == other.read_bytes() == b"new"
    assert sorted(tmp_path.iterdir()) == [path, other]
    assert len(said) == 3, "each once"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_what_loses_data_is_raised(tmp_path, monkeypatch, number):
    def failing(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_bytes(b"old")
    for name in ("link", "replace", "fsync"):
        monkeypatch.setattr(os, name, failing)
    for call in (atomic.link, atomic.replace):
        with pytest.raises(OSError, match=os.strerror(number)):
            call(tmp_path / "a", tmp_path / "b")
    with pytest.raises(OSError, match=os.strerror(number)):
        atomic.flush(tmp_path)
