"""Scalars for TensorBoard: all that there is at a step in one event."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

# One value as tf.summary.scalar writes it (not a `simple_value`), so that whatever reads those reads these.
_SCALAR = tf.compat.v1.Summary.Value(
    metadata=tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
        data_class="DATA_CLASS_SCALAR",
    ),
    tensor=tf.make_tensor_proto(0.0, tf.float32),
)


def write_scalars(writer: tf.summary.SummaryWriter, values: Mapping[str, float], step: int) -> None:
    """Writes `{tag: value}` at a step, as `tf.summary.scalar` would; each of whose calls costs more than all of this."""
    summary = tf.compat.v1.Summary()
    for tag, value in values.items():
        scalar = summary.value.add()
        scalar.CopyFrom(_SCALAR)
        scalar.tag = tag
        scalar.tensor.float_val[0] = value
    with writer.as_default():
        tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)
