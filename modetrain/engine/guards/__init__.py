"""Guards: errors that XLA drops, found by the compiled program itself and returned as data.

Eager and graph mode stop where an index is out of range, an assertion fails or an integer is divided by zero; XLA continues
silently. A guard checks the inputs of such an operation. `checks.py` has the checks, `guard.py` guards one operation,
`step_guards.py` all of a traced step, and `bodies.py` those inside branches, loops and functions.
"""
