"""A mode defines how steps are run: two independent axes and a few numbers. It refuses combinations that cannot work.

Every mode is one expression, `call(k) = graph( sum over k steps: reduce( strategy.run( xla(step)( batch ) ) ) )`.
`compile` selects the wrappings, `strategy` where the step runs. `engine/program.py` builds the expression. Nothing here imports
TensorFlow, so a combination that cannot run is refused before anything is built.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import ClassVar

from modetrain.errors import ConfigError, did_you_mean
from modetrain.schema import NAME, REQUIRED, common, key

COMPILE = ("eager", "graph", "xla")
STRATEGIES = ("one_device", "mirrored", "multiworker", "tpu")
_MEANT_STRATEGIES = {  # words that people try
    **dict.fromkeys(["ddp", "dp", "fsdp", "deepspeed", "mirroredstrategy", "mirrored_strategy"], "mirrored"),
    **dict.fromkeys(["multi_worker", "multi_worker_mirrored", "multiworkermirrored", "horovod"], "multiworker"),
    **dict.fromkeys(["single_device", "single", "one_device_strategy"], "one_device"),
    **dict.fromkeys(["tpustrategy", "tpu_strategy"], "tpu"),
}
DEVICES = ("auto", "cpu", "gpu")
XLA_UNITS = ("auto", "step")
# A step is traced and compiled once for each: 64 take minutes, and the time grows faster than their number.
LOGICAL_CPUS = 64
PRESETS = {  # name: (compile, strategy)
    "eager": ("eager", "one_device"),
    "graph": ("graph", "one_device"),
    "xla": ("xla", "one_device"),
    "mirrored": ("graph", "mirrored"),
    "multiworker": ("graph", "multiworker"),
    "tpu": ("xla", "tpu"),
}
OF_MACHINE, NUMBERS = ("placement", "machine"), ("numbers",)  # what a key affects
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16", "float64")
_MEANT_PRECISIONS = {
    **dict.fromkeys(("bfloat16", "bf16", "mixed_bf16", "bf16-mixed", "bf16-true"), "mixed_bfloat16"),
    **dict.fromkeys(
        ("float16", "fp16", "f16", "16", "half", "mixed", "amp", "mixed_fp16", "16-mixed", "16-true"), "mixed_float16"
    ),
    **dict.fromkeys(("fp32", "f32", "32", "32-true", "single"), "float32"),
    **dict.fromkeys(("fp64", "f64", "64", "64-true", "double"), "float64"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mode:
    """How steps are run."""

    AFFECTS: ClassVar = ("placement",)

    name: str = key(REQUIRED, "name of the preset", "graph", pattern=NAME, takes="letters, digits and . _ + -")
    compile: str = common(
        REQUIRED,
        "eager runs Python line by line, graph traces it, xla compiles it",
        "graph",
        choices=COMPILE,
        affects=("numbers", "placement"),
    )
    strategy: str = key(
        "one_device",
        "where a step runs: one device, several of this machine, several processes, or a TPU",
        choices=STRATEGIES,
        meant=_MEANT_STRATEGIES,
        also="distribution_strategy distribute",
    )
    replicas: int | str = common(
        "auto",
        "devices of mode=mirrored; without a GPU that many logical CPUs (auto: one; at most 64)",
        2,
        choices=("auto",),
        at_least=1,
        at_most=1024,
    )
    workers: int | str = common(
        "auto",
        "processes of mode=multiworker to start here; auto is as the cluster says",
        2,
        choices=("auto",),
        at_least=1,
        at_most=1024,
    )
    restarts: int = key(
        3,
        "how often workers started here start again after one was lost",
        at_least=0,
        also="max_restarts",
        affects=OF_MACHINE,
    )
    restart_workers: int | str = key(
        "auto",
        "how many workers there are then; auto is as many as before",
        1,
        choices=("auto",),
        at_least=1,
        at_most=1024,
        affects=OF_MACHINE,
    )
    startup_timeout: float = key(120.0, "seconds that workers may take to find each other", above=0, affects=OF_MACHINE)
    devices: str | tuple[int, ...] = key(
        "auto",
        "auto (GPUs where there are any), cpu, gpu, or the numbers of the GPUs to use",
        [0, 1],
        choices=DEVICES,
        at_least=0,
        shortest=1,
        also="device",
        meant={"cuda": "gpu", "cuda:0": "gpu"},
        affects=OF_MACHINE,
    )
    tpu: str | None = key(None, "name or address of the TPU of mode=tpu, or local; null is TPU_NAME", "local")
    sync_batch_norm: bool = key(
        True, "batch normalisation sees the whole batch, over all replicas", False, affects=("numbers", "placement")
    )
    xla_unit: str = key(
        "auto",
        "what XLA compiles as one program; step over several replicas takes GPUs",
        "step",
        choices=XLA_UNITS,
        affects=("numbers", "placement"),
    )
    steps_per_call: int | str = common(
        "auto",
        "most steps in one call of the compiled program; auto is as many as fit, 1 in eager",
        "auto",
        choices=("auto",),
        at_least=1,
        also="steps_per_execution steps_per_loop",
    )
    precision: str = common(
        "float32",
        "type of number that is computed with",
        "mixed_bfloat16",
        choices=PRECISIONS,
        meant=_MEANT_PRECISIONS,
        also="dtype dtype_policy mixed_precision",
        affects=NUMBERS,
    )
    deterministic: bool = common(False, "only kernels that repeat bit by bit", True, affects=NUMBERS)
    strict: bool = common(False, "graph bitwise equal to eager", True, affects=NUMBERS)
    debug_data: bool = common(False, "breakpoints work inside Dataset.map", True, affects=())
    guards: bool | str = key(
        "auto",
        "raise the errors that XLA drops; auto is under XLA",
        True,
        choices=("auto",),
        also="guards bounds_checks",
        affects=NUMBERS,
    )

    @classmethod
    def from_preset(cls, name: str) -> Mode:
        """The mode of a preset, like `mode=<name>` on the command line.

        Raises:
          ConfigError: there is no such preset.
        """
        if name not in PRESETS:
            raise ConfigError(f"mode={name}: it is one of {', '.join(PRESETS)}.{did_you_mean(name, PRESETS)}")
        compile, strategy = PRESETS[name]
        return cls(name=name, compile=compile, strategy=strategy)

    def check(self) -> None:
        """Raises ConfigError for an unknown value, or a combination that TensorFlow cannot run."""
        for field, choices in (
            ("compile", COMPILE),
            ("strategy", STRATEGIES),
            ("precision", PRECISIONS),
            ("xla_unit", XLA_UNITS),
        ):
            value = getattr(self, field)
            if value not in choices:
                raise ConfigError(
                    f"mode.{field}={value}: it is one of {', '.join(choices)}.{did_you_mean(str(value), choices)} "
                    f"Type for example mode.{field}={choices[0]}."
                )
        self._check_strategy()
        self._check_xla_unit()
        cap = self.steps_per_call
        if cap != "auto" and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
            raise ConfigError(
                f"mode.steps_per_call={cap}: one call runs at least one step. Type mode.steps_per_call=1 or "
                "mode.steps_per_call=auto."
            )
        if self.compile == "xla" and self.strict:
            key = "mode" if self.name == "xla" else "mode.compile"
            raise ConfigError(
                f"mode.strict=true with {key}=xla: XLA fuses and reorders arithmetic, so it cannot be bitwise equal to "
                f"eager. Type {key}=graph mode.strict=true, or leave mode.strict out."
            )

    def _check_strategy(self) -> None:
        for field, strategy, what in (
            ("replicas", "mirrored", "runs on several devices"),
            ("workers", "multiworker", "runs in several processes"),
            ("restart_workers", "multiworker", "runs in several processes"),
        ):
            value = getattr(self, field)
            if value == "auto" or self.strategy == strategy or (value == 1 and self.strategy == "one_device"):
                continue
            note = " (there a replica is a GPU of a worker, or its CPU)" if self.strategy == "multiworker" else ""
            raise ConfigError(
                f"mode.{field}={value} with mode.strategy={self.strategy}: only mode.strategy={strategy} {what}{note}. Type "
                f"mode={strategy} mode.{field}={value}, or leave mode.{field} out."
            )
        if isinstance(self.devices, tuple):
            if not self.devices or len(set(self.devices)) < len(self.devices) or min(self.devices) < 0:
                raise ConfigError(
                    f"mode.devices={list(self.devices)}: a list of GPUs names each once, from 0. Type mode.devices=[0,1], or "
                    "mode.devices=auto."
                )
            if self.strategy == "one_device" and len(self.devices) > 1:
                raise ConfigError(
                    f"mode.devices={list(self.devices)} with mode.strategy={self.strategy}: one device runs a step. Type "
                    f"mode=mirrored, or mode.devices=[{self.devices[0]}]."
                )
            if self.strategy == "mirrored" and self.replicas not in ("auto", len(self.devices)):
                raise ConfigError(
                    f"mode.replicas={self.replicas} with mode.devices={list(self.devices)}: a replica is a device. Type "
                    f"mode.replicas={len(self.devices)}, or leave one of the two out."
                )
        if self.devices == "cpu" and self.replicas != "auto":
            self.check_logical_cpus(int(self.replicas))
        if self.tpu is not None and self.strategy != "tpu":
            raise ConfigError(
                f"mode.tpu={self.tpu} with mode.strategy={self.strategy}: only mode=tpu uses it. Type mode=tpu mode.tpu={self.tpu}."
            )
        if self.strategy == "tpu":
            self._check_tpu()
        if not self.sync_batch_norm and self.strategy == "one_device":
            raise ConfigError(
                f"mode.sync_batch_norm=false with mode.strategy={self.strategy}: on one device there is nothing to synchronise. "
                "Leave it out."
            )

    def _check_xla_unit(self) -> None:
        if self.xla_unit == "auto":
            return
        if self.compile != "xla":
            raise ConfigError(
                f"mode.xla_unit={self.xla_unit} with mode.compile={self.compile}: XLA compiles nothing there. Type "
                "mode.compile=xla, or leave mode.xla_unit out."
            )
        if self.strategy == "tpu":
            raise ConfigError(
                f"mode.xla_unit={self.xla_unit} with mode.strategy=tpu: a TPU's program is always the step. Leave it out."
            )
        if self.devices == "cpu":
            self.check_whole_steps(["CPU"] * (1 if self.replicas == "auto" else int(self.replicas)))

    def check_whole_steps(self, devices: Sequence[str]) -> None:
        """Raises ConfigError if XLA must compile whole steps of several replicas, and one of their devices is no GPU."""
        several = len(devices) > 1 or self.strategy == "multiworker"
        if self.xla_unit == "step" and several and not all("GPU" in device for device in devices):
            raise ConfigError(
                f"mode.xla_unit={self.xla_unit} on several replicas that are CPUs: XLA can average their gradients only "
                "between GPUs. Leave mode.xla_unit out: XLA then compiles the gradients, and their mean is taken outside."
            )

    def check_logical_cpus(self, count: int) -> None:
        """Raises ConfigError for more logical CPUs than a step is compiled for in reasonable time. GPUs have no such limit."""
        if count > LOGICAL_CPUS:
            raise ConfigError(
                f"mode.replicas={count} on logical CPUs: a step is compiled for every replica, which takes minutes for "
                f"{LOGICAL_CPUS} and grows faster than their number. A few replicas show the same. Type mode.replicas=4; at "
                f"most {LOGICAL_CPUS}."
            )

    def _check_tpu(self) -> None:
        if self.compile != "xla":
            raise ConfigError(
                f"mode.compile={self.compile} with mode.strategy=tpu: a TPU runs compiled programs only. Type "
                f"mode={self.compile} to run on the CPU, or leave mode.compile out."
            )
        if self.precision in ("float64", "mixed_float16"):
            raise ConfigError(
                f"mode.precision={self.precision} with mode.strategy=tpu: a TPU computes in float32 and bfloat16. Type "
                "mode.precision=float32 or mode.precision=mixed_bfloat16."
            )
        if self.devices != "auto":
            raise ConfigError(
                f"mode.devices={self.devices} with mode.strategy=tpu: it uses all cores. Leave mode.devices out."
            )

    def environment(self) -> dict[str, str]:
        """Environment variables that must be set before TensorFlow is imported."""
        # oneDNN rewrites graphs after TensorFlow's own graph optimizations; convolutions are up to a third faster. Whether
        # it is on by default depends on the processor. The bitwise promise of `strict` needs it off on both sides.
        return {"TF_ENABLE_ONEDNN_OPTS": "0" if self.exact else "1"}

    def set_environment(self) -> None:
        """Sets them for this process. TensorFlow reads them once, when it is imported."""
        for name, value in self.environment().items():
            if self.exact:  # otherwise the user's own value has priority
                os.environ[name] = value
            os.environ.setdefault(name, value)

    @property
    def guarded(self) -> bool:
        """Whether `guards` are on."""
        return self.compile == "xla" if self.guards == "auto" else bool(self.guards)

    @property
    def exact(self) -> bool:
        """Whether this mode is one side of the bitwise comparison of `strict`."""
        return self.compile == "eager" or self.strict
