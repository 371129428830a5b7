"""The workers of a run and which one this process is, from TF_CONFIG, Slurm or a Kubernetes indexed job.

    cluster = from_environment(os.environ)          # None: the environment describes no workers
    if cluster is not None:
        os.environ["TF_CONFIG"] = cluster.tf_config()   # before tf.distribute.MultiWorkerMirroredStrategy()

Imports no TensorFlow, so that a wrong environment is refused at once.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from modetrain.cluster import slurm
from modetrain.errors import ConfigError
from modetrain.mode import Mode

# The port of Kubernetes workers; TensorFlow's own examples use it.
PORT = 2222
ORIGIN_TEXTS = {
    "TF_CONFIG": "TF_CONFIG says",
    "slurm": "Slurm's variables say",
    "kubernetes": "the pod's variables say",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The workers of a run, and this process's index among them.

    Attributes:
      workers: `host:port` of each, in the order of their index.
      index: index of this process.
      origin: the source: `TF_CONFIG`, `slurm`, `kubernetes`, or `local` for workers that
        `modetrain.cluster.launcher.launch` started.
    """

    workers: tuple[str, ...]
    index: int
    origin: str

    def __post_init__(self) -> None:
        assert 0 <= self.index < len(self.workers)
        assert len(set(self.workers)) == len(self.workers)

    def tf_config(self) -> str:
        """The value of TF_CONFIG that describes this cluster to TensorFlow."""
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": list(self.workers)}, "task": task})


def from_environment(environ: Mapping[str, str], *, port: int | None = None) -> Cluster | None:
    """The cluster of this process, or None if the environment describes none.

    The first of these decides: TF_CONFIG; a Slurm step of several tasks (`srun python ...`, also on CPU nodes; the batch
    script itself is no worker); a Kubernetes job with `completionMode: Indexed` whose pods have MODETRAIN_WORKERS,
    MODETRAIN_JOB and MODETRAIN_SERVICE.

    Args:
      environ: the environment, `os.environ`.
      port: the (first) port of workers under Slurm and Kubernetes; by default MODETRAIN_PORT, else computed from the
        job's number under Slurm, and 2222 under Kubernetes.

    Raises:
      ConfigError: the environment contradicts itself.
    """
    if environ.get("TF_CONFIG", "").strip():
        # The launcher's workers also have a TF_CONFIG, which no user has typed.
        return _from_tf_config(environ["TF_CONFIG"], "local" if "MODETRAIN_WORKER" in environ else "TF_CONFIG")
    if port is None and environ.get("MODETRAIN_PORT"):
        port = _port(environ["MODETRAIN_PORT"])
    if (step := slurm.step(environ, port=port)) is not None:
        return Cluster(workers=step.addresses, index=step.index, origin="slurm")
    return _from_kubernetes(environ, port or PORT)


def check(mode: Mode, environ: Mapping[str, str]) -> None:
    """Raises ConfigError if the mode needs several workers and the environment describes none."""
    if mode.strategy != "multiworker" or mode.workers != "auto" or from_environment(environ) is not None:
        return
    if "JOB_COMPLETION_INDEX" in environ:
        raise ConfigError(
            "mode=multiworker: JOB_COMPLETION_INDEX says that this is a pod of an indexed job, but not how many pods it has. Set "
            "MODETRAIN_WORKERS, MODETRAIN_JOB and MODETRAIN_SERVICE, as docs/cluster/kubernetes.yaml does."
        )
    raise ConfigError(
        "mode=multiworker: neither TF_CONFIG nor Slurm nor Kubernetes describes other workers. Type mode.workers=2 for two "
        "processes on this machine; docs/reference/clusters.md says how to run on several."
    )


# --- TF_CONFIG -------------------------------------------------------------------------------------------------------

_EXAMPLE = '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'


def _from_tf_config(text: str, origin: str) -> Cluster:
    def refuse(seen: str, why: str) -> ConfigError:
        return ConfigError(f"TF_CONFIG: {seen}: {why}. Set it to, for example, TF_CONFIG='{_EXAMPLE}'")

    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        excerpt = text if len(text) < 200 else f"{text[:200]}..."
        raise refuse(excerpt, f"not JSON ({error.msg} at character {error.pos})") from error
    if not isinstance(given, dict):
        raise refuse(text if len(text) < 200 else f"{text[:200]}...", "it must be an object with cluster and task")
    cluster, task = given.get("cluster"), given.get("task")
    if not isinstance(cluster, dict):
        raise refuse(f"cluster is {cluster!r}", "the addresses of all workers are needed")
    if not isinstance(task, dict):
        raise refuse(f"task is {task!r}", "this process's type and index are needed")
    if "ps" in cluster:
        raise ConfigError(
            f"TF_CONFIG: cluster.ps is {cluster['ps']!r}: modetrain trains on equal workers and has no parameter "
            "servers. Leave ps out, and list all machines in cluster.worker"
        )
    chiefs, workers = (_addresses(cluster, name, refuse) for name in ("chief", "worker"))
    if not chiefs + workers:
        raise refuse("cluster.worker is empty", "the addresses of all workers are needed")
    if len(chiefs) > 1:
        raise refuse(f"cluster.chief is {list(chiefs)}", "there can be one chief")
    twice = sorted({address for address in chiefs + workers if (chiefs + workers).count(address) > 1})
    if twice:
        raise refuse(f"cluster lists {twice[0]} twice", "each worker needs an address of its own")

    kind, index = task.get("type"), task.get("index")
    if kind == "evaluator":
        raise ConfigError(
            "TF_CONFIG: task.type is 'evaluator': modetrain evaluates on all workers and has no evaluator of its own. "
            "Start this process without TF_CONFIG, as do=evaluate resume=RUN_DIR, or leave it out"
        )
    jobs = {"chief": chiefs, "worker": workers}
    if kind not in jobs:
        raise refuse(f"task.type is {kind!r}", "it must be 'worker' (or 'chief')")
    if isinstance(index, str) and index.isdecimal():  # TensorFlow accepts it too
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        raise refuse(f"task.index is {index!r}", "it must be a whole number")
    if not 0 <= index < len(jobs[kind]):
        raise refuse(
            f"task is {kind} {index}", f"cluster.{kind} lists {len(jobs[kind])}, so the index must be below that"
        )
    # A chief is worker 0 and the others follow, as in MultiWorkerMirroredStrategy.
    return Cluster(workers=chiefs + workers, index=index + (len(chiefs) if kind == "worker" else 0), origin=origin)


def _addresses(cluster: Mapping[str, Any], job: str, refuse: Any) -> tuple[str, ...]:
    given = cluster.get(job, [])
    if not isinstance(given, list) or not all(isinstance(address, str) for address in given):
        raise refuse(f"cluster.{job} is {given!r}", "it must be a list of host:port")
    for address in given:
        match = re.fullmatch(r"(\[[^\]\s]+\]|[^:\[\]\s]+):(\d{1,5})", address)
        if match is None or not 0 < int(match[2]) < 65536:
            raise refuse(f"cluster.{job} has {address!r}", "it must be host:port, with a port from 1 to 65535")
    return tuple(given)


# --- Kubernetes ------------------------------------------------------------------------------------------------------

_OWN = ("MODETRAIN_WORKERS", "MODETRAIN_JOB", "MODETRAIN_SERVICE")
_NEEDED = {
    "MODETRAIN_WORKERS": "the number of pods, the same as the job's completions and parallelism",
    "MODETRAIN_JOB": "the job's metadata.name, from which its pods have their host names",
    "MODETRAIN_SERVICE": "the headless service's metadata.name, which is the pods' subdomain",
    "JOB_COMPLETION_INDEX": "which Kubernetes sets in the pods of a job with completionMode: Indexed",
}


def _from_kubernetes(environ: Mapping[str, str], port: int) -> Cluster | None:
    # An indexed job without our own variables may be a sweep of independent runs.
    if not any(environ.get(name) for name in _OWN):
        return None
    for name in (*_OWN, "JOB_COMPLETION_INDEX"):
        if not environ.get(name):
            given = next(other for other in _OWN if environ.get(other))
            raise ConfigError(
                f"{given}={environ[given]} without {name}: workers of a Kubernetes job need {name}, {_NEEDED[name]}. "
                f"Set it in the pod's env (docs/cluster/kubernetes.yaml has all of it)"
            )
    count = _whole(environ, "MODETRAIN_WORKERS")
    index = _whole(environ, "JOB_COMPLETION_INDEX")
    if count < 1:
        raise ConfigError(f"MODETRAIN_WORKERS={count}: at least one worker is needed. Set it to the job's completions")
    if index >= count:
        raise ConfigError(
            f"JOB_COMPLETION_INDEX={index} with MODETRAIN_WORKERS={count}: the job has more pods than workers. Set "
            f"MODETRAIN_WORKERS, completions and parallelism to the same number"
        )
    job, service = environ["MODETRAIN_JOB"], environ["MODETRAIN_SERVICE"]
    for name, value in (("MODETRAIN_JOB", job), ("MODETRAIN_SERVICE", service)):
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", value):
            raise ConfigError(f"{name}={value!r}: not a DNS name (a-z, 0-9 and '-'). Set it to {_NEEDED[name]}")
    return Cluster(
        workers=tuple(f"{job}-{number}.{service}:{port}" for number in range(count)), index=index, origin="kubernetes"
    )


def _whole(environ: Mapping[str, str], name: str) -> int:
    if not environ[name].isdecimal():
        raise ConfigError(f"{name}={environ[name]!r}: not a whole number. It must be {_NEEDED[name]}")
    return int(environ[name])


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ConfigError(f"MODETRAIN_PORT={text!r}: not a port. Set it to a number from 1 to 65535, or unset it")
    return int(text)
