"""The user's Python objects that a step can reach, read and change."""
