"""From an exception or an operation to the user's own line and a plain sentence."""
