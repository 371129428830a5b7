"""Finds what tracing and compiling change in the user's Python, by the user's own lines.

    findings = modetrain.inspect(recipe, batches, modes=["graph", "xla"])
    assert not findings

`inspector.py` collects all the evidence for `do=inspect`; `startup_check.py` prints a short form as a graph or XLA
run traces its steps.
"""
