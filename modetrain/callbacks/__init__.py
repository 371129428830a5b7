"""The callbacks of the library: what looks at a run while it trains."""
