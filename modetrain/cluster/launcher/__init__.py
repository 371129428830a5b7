"""Starts the worker processes of one machine, watches them and ends all of them together."""
