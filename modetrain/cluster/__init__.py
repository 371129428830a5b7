"""Several workers: which ones there are (`environment`, `slurm`), and their start and supervision on this machine (`launcher`).

The command line calls `multiworker.py`. Nothing here imports TensorFlow.
"""
