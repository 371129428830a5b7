"""Clean steps: nothing may be said of any of them."""
