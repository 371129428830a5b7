"""The callbacks of the library."""
