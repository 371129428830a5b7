"""Paths and files of a run folder: reading and writing them."""
