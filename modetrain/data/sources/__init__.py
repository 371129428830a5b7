"""Sources of examples: TFDS, the bundled sample of MNIST, or a folder of arrays; `load.py` is the entry point."""
