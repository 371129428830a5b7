"""Where examples come from: TFDS, the bundled sample of MNIST, or a folder of arrays; `load.py` is the way in."""
