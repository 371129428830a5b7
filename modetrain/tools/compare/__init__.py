"""Comparison of modes: the same steps from the same states in several modes, and where, by how much and why they differ.

    python -m modetrain recipe=mnist do=compare                     compare_command.py: each mode in a process of its own
    modetrain.compare(build_recipe, batches, modes=["xla"])         in_process.py: all modes in this process

A *variant* is the recipe in one mode. Every variant begins every step from the state that the first mode, the *reference*, had
there: what differs was made by that one step. The tolerance is measured: it is how far the reference's own step moves when its
inputs and its state are moved by a rounding error (`tolerance.py`).
"""
