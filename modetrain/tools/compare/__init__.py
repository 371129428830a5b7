"""Comparison of modes: the same steps from the same state in several modes, and where, by how much and why they differ.

    python -m modetrain recipe=mnist do=compare                     command.py: each mode in a process of its own
    modetrain.compare(build_recipe, batches, modes=["xla"])         library.py: all modes in this process

Every mode (an *arm*) begins every step from the state that the first mode, the *reference*, had there: so what differs was
made by that one step. What may differ is measured, not chosen: how far the reference's own step moves when its inputs and
its state are moved by a rounding error (`tolerance.py`).
"""
