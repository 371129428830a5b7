"""A step in a mode: how one step is wrapped, run, compiled and replicated."""
