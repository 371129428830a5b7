"""Workers compare what they run before the first step.

Another learning rate on one worker would silently spoil every update, and another cadence would make all of them wait for ever.

    config_consensus.check(replicas, config_consensus.shared_settings(resolved))

Workers that the launcher starts cannot differ; those that users start on several machines can.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from modetrain.checkpoints.resume import flatten
from modetrain.engine.devices import Replicas
from modetrain.errors import ConfigError
from modetrain.keys import affects

_MOST_NAMED = 5


def shared_settings(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that workers must share, `{"optimizer.learning_rate": 0.001, ...}`, without the paths of a machine."""
    return {
        key: value for key, value in flatten(resolved).items() if "machine" not in affects(key) and not _is_path(value)
    }


def check(replicas: Replicas, mine: Mapping[str, Any]) -> None:
    """Compares the values of all workers; all workers must call this.

    Args:
      replicas: the replicas of all workers.
      mine: this worker's plain values by name.

    Raises:
      ConfigError: the values differ; all workers raise it.
    """
    if replicas.workers == 1:
        return
    text = json.dumps(dict(mine), sort_keys=True, default=str).encode()
    digest = hashlib.sha256(text).digest()
    # As numbers that a float64 holds exactly.
    digests = replicas.gather_from_workers([int.from_bytes(digest[n : n + 6], "big") for n in (0, 6, 12)])
    if (digests == digests[0]).all():
        return
    length = int(replicas.gather_from_workers([len(text)]).max())
    texts = replicas.gather_from_workers(np.frombuffer(text.ljust(length), np.uint8).astype(np.float64).tolist())
    everyone = [json.loads(one.astype(np.uint8).tobytes()) for one in texts]
    keys = sorted({key for one in everyone for key in one})
    values = {key: [_format_value(one, key) for one in everyone] for key in keys}
    differing = [_format_difference(key, found) for key, found in values.items() if len(set(found)) > 1]
    more = f"; and {len(differing) - _MOST_NAMED} more" if len(differing) > _MOST_NAMED else ""
    raise ConfigError(
        f"the workers do not run the same: {'; '.join(differing[:_MOST_NAMED])}{more}. Start all of them with the same "
        "command, and with the same files in conf/ and recipes/."
    )


def _format_value(one: Mapping[str, Any], key: str) -> str:
    return json.dumps(one[key]) if key in one else "not there"


def _format_difference(key: str, values: list[str]) -> str:
    first = values[0]
    worker, other = next((number, value) for number, value in enumerate(values) if value != first)
    return f"{key} is {first} for worker 0, and {other} for worker {worker}"


def _is_path(value: object) -> bool:
    return isinstance(value, str) and os.path.isabs(value)
