"""Finds out within seconds whether a download can work, and keeps TFDS from trying for minutes.

TFDS sets no time-out and retries ten times: a refused connection takes 205 s, and one that hangs never ends.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

# How long a host may take to answer, and how long a download may receive nothing.
PROBE_SECONDS = 3.0
STALL_SECONDS = 15.0
_HOSTS = 4
_RETRIES = 2


def why_unreachable(urls: Iterable[str]) -> str | None:
    """Why none of the hosts of these addresses answers, or None if one does; takes at most `PROBE_SECONDS`.

    It uses the library of the download itself, so it respects proxies and certificates. Any answer counts: the download
    then finds out whether it works.
    """
    import requests

    hosts: dict[str, str] = {}
    for url in urls:
        if url.startswith(("http://", "https://")):
            hosts.setdefault(urlsplit(url).netloc, url)
    asked = dict(list(hosts.items())[:_HOSTS])
    if not asked:
        return None  # no host to ask: the download decides
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask(host: str, url: str) -> None:
        try:
            requests.head(url, timeout=PROBE_SECONDS, allow_redirects=False).close()
            answers.put(None)
        except Exception as error:  # of any type: this host does not answer
            answers.put(f"{host} cannot be reached ({summarize(error)})")

    # Threads, because a look-up waits for a silent name server beyond any time-out; daemons, because such a look-up
    # must not keep the process alive.
    for host, url in asked.items():
        threading.Thread(target=ask, args=(host, url), daemon=True).start()
    deadline = time.monotonic() + PROBE_SECONDS
    reason = f"{next(iter(asked))} cannot be reached (no answer in {PROBE_SECONDS:g} s)"
    for _ in asked:
        try:
            answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if answer is None:
            return None
        reason = answer
    return reason


@contextlib.contextmanager
def bound_requests(*, online: bool) -> Iterator[None]:
    """Within this every request of the process has a time-out and few retries; with `online=False` it fails at once.

    TFDS can then still prepare from files that it downloaded before, and fails at once if it needs another.
    """
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ConnectionError

    send = HTTPAdapter.send

    def bounded_send(self: Any, request: Any, *rest: Any, **options: Any) -> Any:
        if not online:
            raise ConnectionError("no network", request=request)
        # A busy server may ask for a retry after an hour.
        retries = min(_RETRIES, self.max_retries.total or 0)
        self.max_retries = self.max_retries.new(total=retries, respect_retry_after_header=False)
        options["timeout"] = options.get("timeout") or (PROBE_SECONDS, STALL_SECONDS)
        return send(self, request, *rest, **options)

    HTTPAdapter.send = bounded_send  # type: ignore[method-assign]
    try:
        yield
    finally:
        HTTPAdapter.send = send  # type: ignore[method-assign]


@contextlib.contextmanager
def silence_logs() -> Iterator[None]:
    """Within this libraries do not log each retry and each file; errors are raised, not logged."""
    loggers = [logging.getLogger(name) for name in ("absl", "urllib3", "tensorflow_datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def summarize(error: BaseException) -> str:
    """One clause for the cause, instead of the chain of exceptions in the message of requests."""
    text = f"{type(error).__name__}: {error}"
    for mark, clause in (
        ("ProxyError", "the proxy of the environment does not let it through"),
        ("NameResolution", "its name cannot be resolved"),
        ("getaddrinfo", "its name cannot be resolved"),
        ("Connection refused", "connection refused"),
        ("unreachable", "network unreachable"),
        ("SSL", "its certificate is not accepted"),
        ("imeout", "no answer in time"),
        ("timed out", "no answer in time"),
        ("IncompleteRead", "the connection broke off"),
        ("RemoteDisconnected", "the connection broke off"),
        ("reset by peer", "the connection broke off"),
        ("too many", "it keeps answering with an error"),
        ("no network", "no network"),
    ):
        if mark in text:
            return clause
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "..."
