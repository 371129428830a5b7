"""A mode that cannot run is refused when it is checked, and the environment it needs is known before TensorFlow."""

from __future__ import annotations

import pytest

from modetrain.errors import ConfigError
from modetrain.mode import COMPILE, PRECISIONS, Mode


@pytest.mark.parametrize("compile", COMPILE)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("steps_per_call", ["auto", 1, 7])
def test_what_can_run_passes(compile, precision, steps_per_call):
    Mode(name=compile, compile=compile, precision=precision, steps_per_call=steps_per_call).check()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"compile": "jit"}, r"mode.compile=jit: .* Type for example mode.compile=eager"),
        ({"strategy": "mirored"}, r"mode.strategy=mirored"),
        ({"precision": "float23"}, r"Did you mean 'float32'\?"),
        ({"steps_per_call": 0}, r"Type mode.steps_per_call=1 or mode.steps_per_call=auto"),
        ({"steps_per_call": "many"}, r"mode.steps_per_call=many"),
        ({"steps_per_call": True}, r"mode.steps_per_call=True"),
        ({"compile": "xla", "strict": True}, r"Type mode.compile=graph mode.strict=true"),
        ({"compile": "xla", "strict": True, "name": "xla"}, r"Type mode=graph mode.strict=true"),
    ],
)
def test_what_cannot_run_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        Mode(**{"name": "mine", "compile": "graph", **changed}).check()


def test_onednn_is_off_where_graph_and_eager_must_agree_bitwise_and_on_elsewhere():
    for mode in (Mode(name="graph", compile="graph"), Mode(name="xla", compile="xla")):
        assert mode.environment()["TF_ENABLE_ONEDNN_OPTS"] == "1"
    for mode in (Mode(name="eager", compile="eager"), Mode(name="graph", compile="graph", strict=True)):
        assert mode.environment()["TF_ENABLE_ONEDNN_OPTS"] == "0"
