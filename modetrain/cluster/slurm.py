"""The tasks of a Slurm step: the node and port of each, computed in every task from SLURM_ variables.

TensorFlow's own resolver counts GPUs for this and fails on CPU nodes; nothing here depends on a node's devices.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from modetrain.errors import ConfigError

# Ports below the range that Linux uses for outgoing connections (from 32768), one block for each job and step.
_FIRST_PORT, _BLOCK, _BLOCKS = 15_000, 16, 1_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A step of several tasks.

    Attributes:
      addresses: `node:port` of each task, in the order of their rank.
      index: the rank of this task.
    """

    addresses: tuple[str, ...]
    index: int


def step(environ: Mapping[str, str], *, port: int | None = None) -> Step | None:
    """The step of this process, or None if it is not one of several tasks.

    Args:
      environ: the environment, `os.environ`.
      port: port of the first task on each node; later tasks on the same node count up. By default it is computed from the
        numbers of job and step: all tasks agree, and steps on the same node differ.

    Raises:
      ConfigError: the variables contradict each other, or the placement of the tasks cannot be computed.
    """
    # A batch script has SLURM_PROCID and SLURM_NTASKS too, but is no worker and would wait for the others for ever. Only srun
    # sets the variables of the step.
    if "SLURM_PROCID" not in environ or "SLURM_STEP_NUM_TASKS" not in environ:
        return None
    count = _number(environ, "SLURM_STEP_NUM_TASKS")
    if count < 2:
        return None
    rank = _number(environ, "SLURM_PROCID")
    if rank >= count:
        raise ConfigError(
            f"SLURM_PROCID={rank} with SLURM_STEP_NUM_TASKS={count}: ranks go from 0 to {count - 1}. Start the workers "
            "with srun, which sets both, and set neither yourself"
        )
    nodes_name, nodes_text = _first(environ, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
    tasks_name, tasks_text = _first(environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    nodes = expand_nodes(nodes_text, nodes_name)
    tasks = expand_tasks(tasks_text, tasks_name)
    if len(nodes) != len(tasks):
        raise ConfigError(
            f"{tasks_name}={tasks_text} has {len(tasks)} nodes, {nodes_name}={nodes_text} has {len(nodes)}: the two "
            "must describe the same nodes. Start the workers with srun, which sets both for the step"
        )
    if sum(tasks) != count:
        raise ConfigError(
            f"{tasks_name}={tasks_text} adds up to {sum(tasks)} tasks, SLURM_STEP_NUM_TASKS={count}: the two must agree. "
            "Start the workers with srun, which sets both for the step"
        )
    places = list(_place_tasks(tasks, _chunk(environ)))
    _check_own_node(environ, rank, places)
    first = _first_port(environ) if port is None else port
    if first + max(tasks) > 65536:
        raise ConfigError(
            f"MODETRAIN_PORT={first} with {max(tasks)} tasks on a node: ports end at 65535. Set MODETRAIN_PORT to "
            f"{65536 - max(tasks)} or less"
        )
    return Step(addresses=tuple(f"{nodes[node]}:{first + local}" for node, local in places), index=rank)


def expand_nodes(text: str, name: str = "SLURM_STEP_NODELIST") -> list[str]:
    """The nodes of Slurm's short form: `rack[1-2]n[01-02],gpu5` is rack1n01, rack1n02, rack2n01, rack2n02, gpu5."""
    nodes: list[str] = []
    # Commas inside brackets separate numbers, commas outside separate nodes.
    for part in re.split(r",(?![^\[]*\])", text.strip()):
        pieces = re.findall(r"\[([^\[\]]*)\]|([^\[\],\s]+)", part)
        if not pieces or "".join(f"[{numbers}]" if numbers else plain for numbers, plain in pieces) != part:
            raise ConfigError(f"{name}={text!r}: {part!r} is no list of nodes. It must look like node[01-03,07],gpu5")
        choices = [list(_numbers(numbers, name, text)) if numbers else [plain] for numbers, plain in pieces]
        nodes += ["".join(choice) for choice in itertools.product(*choices)]
    if len(set(nodes)) != len(nodes):
        raise ConfigError(f"{name}={text!r}: a node is listed twice, so that two workers would share an address")
    return nodes


def _numbers(text: str, name: str, whole: str) -> Iterator[str]:
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if match is None or (match[2] is not None and int(match[2]) < int(match[1])):
            raise ConfigError(f"{name}={whole!r}: {part!r} is no range of nodes. It must look like node[01-03,07]")
        for number in range(int(match[1]), int(match[2] or match[1]) + 1):
            yield str(number).zfill(len(match[1]))  # node[08-10] is node08, node09, node10


def expand_tasks(text: str, name: str = "SLURM_STEP_TASKS_PER_NODE") -> list[int]:
    """The number of tasks on each node from Slurm's short form: `2(x3),1` is 2, 2, 2, 1."""
    tasks: list[int] = []
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ConfigError(f"{name}={text!r}: {part!r} is no number of tasks. It must look like 2(x3),1")
        tasks += [int(match[1])] * int(match[2] or 1)
    return tasks


def _place_tasks(tasks: Sequence[int], chunk: int) -> Iterator[tuple[int, int]]:
    """Yields (node, number of the task on that node) for each rank, when each node gets `chunk` tasks in turn."""
    placed = [0] * len(tasks)
    while sum(placed) < sum(tasks):
        for node, wanted in enumerate(tasks):
            for _ in range(min(chunk, wanted - placed[node])):
                yield node, placed[node]
                placed[node] += 1


def _chunk(environ: Mapping[str, str]) -> int:
    """How many tasks in turn go to a node."""
    given = environ.get("SLURM_DISTRIBUTION", "block")
    kind = re.split(r"[:,]", given)[0].lower()  # the rest describes the cores within a node, as in cyclic:block
    if kind == "cyclic":
        return 1
    if kind == "plane":
        return max(1, _number(environ, "SLURM_DIST_PLANESIZE"))
    if kind in ("block", "*", "unknown", ""):
        return 1 << 30
    raise ConfigError(
        f"SLURM_DISTRIBUTION={given}: the node of each task cannot be computed from that. Type "
        "srun --distribution=block"
    )


def _check_own_node(environ: Mapping[str, str], rank: int, places: Sequence[tuple[int, int]]) -> None:
    """Compares the computed placement with this task's own variables: wrong addresses would only time out."""
    for name, computed in zip(("SLURM_NODEID", "SLURM_LOCALID"), places[rank], strict=True):
        if name in environ and _number(environ, name) != computed:
            raise ConfigError(
                f"{name}={environ[name]} for SLURM_PROCID={rank}: it should be {computed} with "
                f"SLURM_DISTRIBUTION={environ.get('SLURM_DISTRIBUTION', 'block')}, so the other workers' addresses "
                "cannot be computed. Type srun --distribution=block"
            )


def _first_port(environ: Mapping[str, str]) -> int:
    name, text = _first(environ, "SLURM_JOB_ID", "SLURM_JOBID")
    if not text.isdecimal():
        raise ConfigError(
            f"{name}={text!r}: not a number, so no port can be computed. Set MODETRAIN_PORT, for example to 15000"
        )
    # Neighbouring jobs, and steps of a job that run together, get different blocks.
    return _FIRST_PORT + _BLOCK * ((int(text) + 7 * _number(environ, "SLURM_STEP_ID", default=0)) % _BLOCKS)


def _first(environ: Mapping[str, str], *names: str) -> tuple[str, str]:
    for name in names:
        if environ.get(name):
            return name, environ[name]
    raise ConfigError(
        f"SLURM_PROCID={environ['SLURM_PROCID']} without {names[0]}: the workers' addresses are computed from it. Start "
        "them with srun, which sets it"
    )


def _number(environ: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name}={text!r}: not a whole number. Start the workers with srun, which sets it")
    return int(text)
