"""The user's Python objects as a step can reach, read and change them."""
