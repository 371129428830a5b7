"""Planted defects and clean steps for `inspect`, each a tiny recipe; what public issue threads report, written anew.

A line that shall be found carries `# expect MT101`, or outside of the recipe's class `# expect MT101 (NameOfTheClass)`.
"""
