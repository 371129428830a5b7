"""Steps whose numbers differ between modes, and nothing else."""
