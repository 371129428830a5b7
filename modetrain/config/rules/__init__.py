"""What cannot work, or would be silently ignored, although every value by itself is good: rules over several keys.

A rule is a function of the settings that returns one sentence, or None where all is well. To add one, write it in the file
of its subject and put it into RULES (`check.py`); where a key only counts under some value of another, a line in
COUNTS_ONLY_WITH (`only.py`) is enough.
"""
