"""Tools that build trust: inspect, compare and replay. Nothing below imports them."""
