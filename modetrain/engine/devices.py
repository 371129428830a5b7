"""Where steps run: one device, or the replicas of a `tf.distribute` strategy, which hold equal copies of every variable.

    replicas = Replicas.for_mode(mode)              # before anything else of TensorFlow
    with replicas.scope(): recipe = ...       # variables are made here
    results = replicas.run(function, inputs)  # function(inputs[k]) on replica k of this process

A replica computes the gradients of its share of a batch. `mean_over_replicas` takes the mean of all shares. Every replica then
makes the same update of its own copy. An update has no synchronisation point, so it may stand in a `tf.cond`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from modetrain.engine.tf_internals import keras_scales_nothing
from modetrain.errors import ConfigError
from modetrain.mode import Mode

_TPU_ANSWERS_WITHIN = 20.0  # seconds


class Replicas:
    """The replicas of a strategy; without a strategy a single device.

    Args:
      strategy: a strategy of `tf.distribute`; None is one device without a wrapper.
      worker: number of this process among the workers.
      workers: number of processes.
      notes: lines for the user on how the devices were chosen.

    Attributes:
      count: number of replicas in all processes.
      local: number of replicas in this process.
      first: number of this process's first replica.
      worker, workers, notes: as given.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy | None = None,
        *,
        worker: int = 0,
        workers: int = 1,
        notes: Sequence[str] = (),
    ):
        self.strategy = strategy
        self.notes = tuple(notes)
        self.worker = worker
        self.workers = workers
        self.count = strategy.num_replicas_in_sync if strategy else 1
        self.local = self.count // workers
        self.first = worker * self.local
        # One function per shape: TensorFlow warns when one is traced for several.
        self._summing: dict[tuple[int, ...], Callable[[tf.Tensor], tf.Tensor]] = {}

    @classmethod
    def for_mode(cls, mode: Mode, *, waiting: contextlib.AbstractContextManager | None = None) -> Replicas:
        """Makes the replicas that a mode asks for. Must be called before TensorFlow does anything else.

        `multiworker` reads TF_CONFIG from the environment, and returns when all workers have joined.

        Args:
          mode: how steps are run.
          waiting: entered while TensorFlow waits for the other workers.

        Raises:
          ConfigError: this machine does not have the devices that the mode asks for.
        """
        if mode.strategy == "tpu":
            return cls(_tpu_strategy(mode))
        names = _devices(mode)
        if not os.environ.get("TF_CONFIG", " ").strip():  # TensorFlow cannot read an empty value
            os.environ.pop("TF_CONFIG", None)
        if mode.strategy == "mirrored":
            # On CPUs a plain sum in a fixed order, which is the same in eager and graph mode; on GPUs TensorFlow's own choice.
            reduction = tf.distribute.ReductionToOneDevice() if names[0].startswith("CPU") else None
            # TensorFlow warns five times that eager replicas are slow; the user has asked for them.
            tf.get_logger().addFilter(lambda record: "eagerly has significant overhead" not in record.getMessage())
            return cls(tf.distribute.MirroredStrategy(names, cross_device_ops=reduction), notes=_alone(mode, names))
        if mode.strategy == "multiworker":
            resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
            kinds = tf.distribute.experimental.CommunicationImplementation
            kind = kinds.RING if names[0].startswith("CPU") else kinds.AUTO
            with waiting or contextlib.nullcontext():
                strategy = tf.distribute.MultiWorkerMirroredStrategy(
                    resolver, tf.distribute.experimental.CommunicationOptions(implementation=kind)
                )
            workers = len(resolver.cluster_spec().as_dict()["worker"])
            return cls(strategy, worker=resolver.task_id, workers=workers)
        return cls()

    @property
    def chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.worker == 0

    @property
    def devices(self) -> list[str]:
        """Names of the devices of all workers that steps run on."""
        if self.strategy is None:
            kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
            return [device.name for device in tf.config.list_logical_devices(kind)][:1]
        specs = [tf.DeviceSpec.from_string(device) for device in self.strategy.extended.worker_devices]
        here = [f"/device:{spec.device_type}:{spec.device_index}" for spec in specs]
        if self.workers == 1:
            return here
        return [f"/job:worker/task:{worker}{device}" for worker in range(self.workers) for device in here]

    @property
    def on_gpus(self) -> bool:
        """Whether every replica is a GPU."""
        return all("GPU" in device for device in self.devices)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Within this, variables are made on every replica, and a Keras loss has the value that it has on one device."""
        if self.strategy is None:
            yield
            return
        with self.strategy.scope(), keras_scales_nothing():
            yield

    def own(self, variables: Iterable[Any]) -> bool:
        """Whether all these variables were made in this scope."""
        if self.strategy is None:
            return True
        plain = (getattr(variable, "value", variable) for variable in variables)  # a Keras variable holds TensorFlow's
        return all(
            self.strategy.extended.variable_created_in_scope(one) for one in plain if isinstance(one, tf.Variable)
        )

    def run(self, function: Callable[[Any], Any], inputs: Sequence[Any]) -> list[Any]:
        """Calls `function(inputs[k])` on replica k of this process, on its device; returns the results in order."""
        if self.strategy is None:
            return [function(inputs[0])]
        values = self.strategy.experimental_distribute_values_from_function(
            lambda context: inputs[context.replica_id_in_sync_group - self.first]
        )
        on_replica = tf.autograph.experimental.do_not_convert(function)
        return list(self.strategy.experimental_local_results(self.strategy.run(on_replica, args=(values,))))

    def sum_over_workers(self, array: np.ndarray) -> np.ndarray:
        """The sum of every worker's array (float64); all workers must call this, with arrays of one shape."""
        if self.workers == 1:
            return array
        if array.shape not in self._summing:

            def sum_over_replicas(one):  # the identity puts the sum on the replica's device
                return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(one))

            def summing(value):
                # Each worker's array counts once, however many replicas the worker has.
                values = [value, *[tf.zeros_like(value)] * (self.local - 1)]
                return self.run(sum_over_replicas, values)[0]

            self._summing[array.shape] = tf.function(summing, autograph=False)
        return self._summing[array.shape](tf.constant(array, tf.float64)).numpy()

    def gather_from_workers(self, values: Sequence[float]) -> np.ndarray:
        """Every worker's values, float64 [workers, len(values)]; all workers must call this, with as many values."""
        mine = np.zeros([self.workers, len(values)])
        mine[self.worker] = values
        return self.sum_over_workers(mine)


def format_devices(devices: Sequence[str]) -> str:
    """Device names for the user: all of up to four, else the first and the end of the last."""
    if len(devices) <= 4:
        return ", ".join(devices)
    first, last = devices[0], devices[-1]
    alike = next(n for n, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return f"{first} to {last[alike:]}"


def replica_number() -> int | tf.Tensor:
    """Number of the replica that this thread runs; 0 on one device. On TPUs, where one trace serves all replicas, a tensor."""
    if replicas_here() == 1:
        return 0
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    static = tf.get_static_value(number)
    return number if static is None else int(static)


def replicas_here() -> int:
    """How many replicas run this thread's step together."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def mean_over_replicas(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Each tensor's mean over all replicas; the tensors themselves on one device. A synchronisation point."""
    if replicas_here() == 1:
        return list(tensors)
    return list(tf.distribute.get_replica_context().all_reduce("MEAN", list(tensors)))


def _tpu_strategy(mode: Mode) -> tf.distribute.Strategy:
    """Connects to the TPU that `mode.tpu` or the environment names."""
    if mode.tpu is None and not os.environ.get("TPU_NAME"):
        raise ConfigError(
            "mode=tpu: neither mode.tpu= nor TPU_NAME says which. Type mode.tpu=local on a machine that has TPUs, else "
            "mode.tpu=NAME or mode.tpu=grpc://HOST:8470."
        )
    named = mode.tpu or os.environ["TPU_NAME"]
    try:
        if named.startswith("grpc://"):
            _knock(named.removeprefix("grpc://"))
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(named)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, IndexError, ImportError, OSError) as error:
        raise ConfigError(
            f"mode.tpu={named}: no TPU answers ({_why_no_tpu(error)}). Type mode.tpu= with another name or address, or "
            "mode=xla to run without one."
        ) from error


def _knock(address: str) -> None:
    """Raises ValueError for a wrong address, or where nothing answers: TensorFlow would wait for ever."""
    host, _, port = address.partition(",")[0].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError("an address is grpc://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TPU_ANSWERS_WITHIN).close()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def _why_no_tpu(error: Exception) -> str:
    if isinstance(error, OSError):  # from the lookup of a name; an address (grpc://) needs none
        reason = getattr(error, "reason", error)
        return f"a name is looked up in Google Cloud, which cannot be reached: {getattr(reason, 'strerror', None) or reason}"
    why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return why.partition(". Failed in initialization: No OpKernel")[
        0
    ]  # the rest lists what this TensorFlow was built with


def _alone(mode: Mode, names: Sequence[str]) -> list[str]:
    """The note on a single replica that the user did not ask for: `mirrored` usually means several."""
    if len(names) > 1 or mode.replicas != "auto" or isinstance(mode.devices, tuple):
        return []
    if names[0].startswith("GPU"):
        return [
            "this machine has one GPU: mode=mirrored has one replica. Type mode.devices=cpu mode.replicas=2 to rehearse two"
        ]
    why = "mode.devices=cpu" if mode.devices == "cpu" else "this machine has no GPU"
    return [f"{why}: mode=mirrored has one replica, the CPU. Type mode.replicas=2 to rehearse two"]


def _devices(mode: Mode) -> list[str]:
    """Chooses the devices of this process, splits the CPU if the mode asks for it, and hides unused GPUs."""
    gpus = tf.config.list_physical_devices("GPU")
    wanted = mode.devices
    if wanted == "gpu" and not gpus:
        raise ConfigError(
            "mode.devices=gpu: TensorFlow finds no GPU here. Type mode.devices=cpu, or mode.devices=auto."
        )
    if isinstance(wanted, tuple):
        missing = [number for number in wanted if number >= len(gpus)]
        if missing:
            raise ConfigError(
                f"mode.devices={list(wanted)}: there is no GPU {missing[0]}, TensorFlow finds {len(gpus)} here. Type "
                "mode.devices=auto."
            )
        gpus = [gpus[number] for number in wanted]
    if wanted == "cpu":
        gpus = []
    if mode.strategy == "one_device":
        gpus = gpus[:1]
    elif mode.strategy == "mirrored" and gpus and mode.replicas != "auto":
        if int(mode.replicas) > len(gpus):
            raise ConfigError(
                f"mode.replicas={mode.replicas}: a replica is a GPU, and TensorFlow finds {len(gpus)} here. Type "
                f"mode.replicas={len(gpus)}, or mode.devices=cpu to rehearse on logical CPUs."
            )
        gpus = gpus[: int(mode.replicas)]
    if tf.config.get_visible_devices("GPU") != gpus:
        _before_start(lambda: tf.config.set_visible_devices(gpus, "GPU"), f"mode.devices={wanted}")
    count = 1 if mode.replicas == "auto" or mode.strategy != "mirrored" else int(mode.replicas)
    mode.check_whole_steps(["GPU"] * len(gpus) or ["CPU"] * count)
    if gpus:
        return [f"GPU:{number}" for number in range(len(gpus))]
    mode.check_logical_cpus(count)
    if count > 1:
        (cpu,) = tf.config.list_physical_devices("CPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * count
        if len(tf.config.get_logical_device_configuration(cpu) or ()) < count:
            _before_start(
                lambda: tf.config.set_logical_device_configuration(cpu, logical), f"mode.replicas={mode.replicas}"
            )
    return [f"CPU:{number}" for number in range(count)]


def _before_start(change: Callable[[], None], given: str) -> None:
    """Changes TensorFlow's devices, which is possible until TensorFlow uses one.

    Raises:
      ConfigError: TensorFlow has used one.
    """
    try:
        change()
    except RuntimeError as error:
        raise ConfigError(
            f"{given}: TensorFlow has started in this process with other devices ({error}). Start a new process for this "
            "mode, or run it first."
        ) from error
