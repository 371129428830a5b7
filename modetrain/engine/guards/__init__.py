"""Guards: errors that XLA drops, found by the compiled program itself and returned as data.

Eager and graph stop where an index is out of range, an assertion fails, an integer is divided by zero, and so on; XLA computes
on without a word. What such an operation reads is checked beside it: `checks.py` says how, `guard.py` does it for one operation,
`step.py` for those of a traced step, and `bodies.py` inside branches, loops and functions.
"""
