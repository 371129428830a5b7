"""Which lines of a stack are the user's own."""

from __future__ import annotations

import os

from modetrain.diagnostics import stack


def test_the_library_files_that_stacks_are_cut_at_exist():
    """A file that was moved would no longer be recognised, and its lines would count as the step's."""
    for path in (*stack._WATCHERS, stack._BODIES, stack._PROGRAM):
        assert os.path.exists(path), path
