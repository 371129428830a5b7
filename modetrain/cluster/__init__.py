"""Several workers: who they are (`cluster`, `slurm`), started and supervised here (`launch` and below), told apart on failing.

`multiworker.py` is the way in from the command line. Nothing here imports TensorFlow.
"""
