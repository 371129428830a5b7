"""Whether an error shows that another worker has ended. Does not import TensorFlow: a launcher uses it too."""

from __future__ import annotations

import re

# TensorFlow's messages when a peer has ended.
LOST_PEER = re.compile(
    r"UnavailableError|heartbeat|connection reset|socket closed|coordination service|broken pipe"
    r"|collective\w*[^\n]*(abort|cancel|timed? ?out|timeout)",
    re.IGNORECASE,
)
# Its errors that may have that cause; user code raises none of these.
_MAYBE_LOST = re.compile(r"(Aborted|Cancelled|DeadlineExceeded|Internal|Unknown|FailedPrecondition)Error")
# Begins what TensorFlow quotes of a Python function that it has called: this is user code.
_CALLED_BACK = "Traceback (most recent call last):"


def lost_a_peer(error: BaseException) -> bool:
    """Whether an error shows that another worker has ended."""
    return says_lost_peer(type(error).__name__, str(error))


def says_lost_peer(type: str, message: str) -> bool:
    """The same for an error's type and message."""
    if _CALLED_BACK in message:
        return False
    if type == "UnavailableError":
        return True
    return _MAYBE_LOST.fullmatch(type) is not None and LOST_PEER.search(message) is not None
