"""Rules over several keys: what cannot work, or would be ignored, although every value by itself is good."""
