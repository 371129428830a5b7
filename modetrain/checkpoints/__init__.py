"""Checkpoints: the file of a step, written beside the steps, and what goes on from one or takes its first values from it."""
