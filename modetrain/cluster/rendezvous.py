"""Workers wait for each other before TensorFlow does: missing workers are reported in time, and signals end the wait.

    with join_workers(os.environ, within=120):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(...)

TensorFlow waits for ever. While it waits it holds Python's lock, so no Python handler or thread runs, and it takes SIGTERM for
itself. So each worker first answers at its own address until all others answer at theirs. Once a worker has continued,
TensorFlow's server answers there. TensorFlow then joins within a second.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping

from modetrain.cluster import protocol
from modetrain.cluster.environment import Cluster, from_environment

log = logging.getLogger(__name__)

_LOG_EVERY = 5.0  # seconds before the first line about waiting, and between two lines
_POLL_EVERY = 0.2  # seconds
_PATIENCE = 1.0  # seconds that a peer may take to answer
_MOST_NAMED = 4


class NotJoinedError(Exception):
    """Workers of the cluster cannot be reached, or this one's own address cannot be used."""


@contextlib.contextmanager
def join_workers(environ: Mapping[str, str], *, within: float) -> Iterator[None]:
    """Enters once all workers answer; within this TensorFlow may join them. Must be entered in the main thread.

    Args:
      environ: the environment, which describes the cluster.
      within: seconds that the others may take, and then TensorFlow. The launcher sets the limit for workers that it started.

    Raises:
      NotJoinedError: a worker does not answer in time.
    """
    cluster = from_environment(environ)
    if cluster is None or len(cluster.workers) == 1:
        yield
        return
    protocol.announce_waiting(environ)
    alone = cluster.origin != "local"
    with _die_by_signals():
        _wait_for_all(cluster, within if alone else math.inf)
        if alone:  # a timer in C, in case a peer is lost from now on
            faulthandler.dump_traceback_later(max(within, 2 * _LOG_EVERY), exit=True, file=sys.stderr)
        try:
            yield
        finally:
            if alone:
                faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def _die_by_signals() -> Iterator[None]:
    """Within this Ctrl-C and SIGTERM end the process at once: there is nothing to save yet."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    caught = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in caught:  # TensorFlow has taken SIGTERM
            signal.signal(number, before[number] or signal.SIG_DFL)


def _wait_for_all(cluster: Cluster, within: float) -> None:
    began = time.monotonic()
    logged_at, logged = began, ""
    missing = {number: "" for number in range(len(cluster.workers)) if number != cluster.index}
    with _answer_peers(cluster):
        while True:
            for number in tuple(missing):
                if time.monotonic() - began >= within:
                    break
                problem = _problem(cluster.workers[number])
                if problem is None:
                    del missing[number]
                else:
                    missing[number] = problem
            if not missing:
                return
            now = time.monotonic()
            if now - began >= within:
                raise NotJoinedError(
                    f"worker {cluster.index} has waited {within:g} s for {_format_workers(cluster, missing)}. Start what is "
                    "missing, see in its output why it does not come, or type mode.startup_timeout= with more seconds."
                )
            line = f"worker {cluster.index} waits for {_format_workers(cluster, missing)}"
            if now - logged_at >= _LOG_EVERY and line != logged:
                logged_at, logged = now, line
                limit = f"; at most {within:g} s (mode.startup_timeout)" if within < math.inf else ""
                log.info(f"{line}{limit}")
            time.sleep(_POLL_EVERY)


@contextlib.contextmanager
def _answer_peers(cluster: Cluster) -> Iterator[None]:
    """Within this the worker answers every connection to its address."""
    address = cluster.workers[cluster.index]
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise NotJoinedError(
            f"worker {cluster.index} cannot listen at its address {address}: {os.strerror(error.errno or 0)}. End the process "
            f"that uses it, or give the worker another port ({_how(cluster)})."
        ) from error
    ended = threading.Event()

    def answer() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):  # a peer may have gone already
                peer, _ = server.accept()
                with peer:
                    peer.sendall(b"modetrain\n")

    server.settimeout(_POLL_EVERY)
    thread = threading.Thread(target=answer, daemon=True, name="modetrain-joining")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        server.close()


def _problem(address: str) -> str | None:
    """Why a worker does not answer, in words; None if it does. A frozen worker accepts the connection, but sends nothing."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE) as peer:
            try:
                return None if peer.recv(1) else "does not answer"
            except OSError:
                return "does not answer"
    except socket.gaierror as error:
        return error.strerror
    except TimeoutError:
        return "does not answer"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)


def _format_workers(cluster: Cluster, missing: Mapping[int, str]) -> str:
    named = [
        f"worker {number} at {cluster.workers[number]}" + (f" ({problem})" if problem else "")
        for number, problem in missing.items()
    ]
    left = len(named) - _MOST_NAMED
    return ", ".join([*named[:_MOST_NAMED], *([f"and {left} more"] if left > 0 else [])])


def _how(cluster: Cluster) -> str:
    return "in every TF_CONFIG" if cluster.origin in ("TF_CONFIG", "local") else "MODETRAIN_PORT=, for all workers"
