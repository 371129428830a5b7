"""Planted defects and clean steps for `inspect` and `compare`, each a small recipe after what public issue threads report."""
