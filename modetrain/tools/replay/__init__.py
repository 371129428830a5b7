"""Replay: one step of a run, run again as it was, in a debugger or in every mode.

A failing run leaves a capsule (`checkpoints/capsule.py`, written by `callbacks/flight_recorder.py`). `do=replay` takes one, or a
run folder and a step (`source.py`), restores the state and runs up to the step (`catch_up.py`). Then it stops in the step
(`one_step.py`, `replay_command.py`), or says where something first goes wrong in eager, graph and xla (`check_modes.py`).
"""
