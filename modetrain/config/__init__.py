"""From what is typed and `conf/` to checked settings; `load.py` is the way in. Nothing here imports TensorFlow."""
