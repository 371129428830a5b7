"""The user's Python objects as a step can reachable, read and change them."""
