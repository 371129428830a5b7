"""Checkpoints: the file of a step, its writer in the background, resuming from it, and initial values from it."""
