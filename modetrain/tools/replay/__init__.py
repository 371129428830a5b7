"""Replay: one step of a run, made again as it was, in a debugger or in every mode.

A failing run leaves a capsule (`capsule.py`, written by `callbacks/recorder.py`). `do=replay` takes one, or a run folder
and a step (`origin.py`), restores the state, runs up to the step (`run_up.py`), and then stops in it (`command.py`) or
says where something first goes wrong in eager, graph and xla (`check.py`, `verdict.py`).
"""
