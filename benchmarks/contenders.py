"""The contenders: functions (task, windows) that set up a training loop and run it window by window.

Hand-written loops are what an expert in TensorFlow would write for the mode: Keras's model and Adam, a
cached and prefetched pipeline, and only the metrics' sums brought back to the host. Each keeps the mean loss and
accuracy, as `fit` and modetrain do.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import models
import numpy as np
import tensorflow as tf
from windows import Windows

from modetrain import __main__ as modetrain
from modetrain.data.sources import load as sources
from modetrain.settings import DataSettings

LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained.

    Attributes:
      model: `mlp` or `cnn`.
      batch_size: examples a step.
      steps_per_call: steps of one call, for the contenders that run several.
      fd: file descriptor of the connection to the parent.
    """

    model: str
    batch_size: int
    steps_per_call: int
    fd: int


# --- hand-written -----------------------------------------------------------------------------------------------------


def hand_eager(task: Task, windows: Windows) -> None:
    """Nothing is wrapped: one Python line at a time."""
    step = make_step(task)
    batches = iter(pipeline(task))
    while windows.wait():
        sums = np.zeros(2)
        for _ in range(windows.steps):
            sums += step(*next(batches)).numpy()


def hand_call(task: Task, windows: Windows) -> None:
    """One call of a `tf.function` a step."""
    _call_by_call(task, windows, jit_compile=False)


def hand_xla_call(task: Task, windows: Windows) -> None:
    """One call of an XLA program a step."""
    _call_by_call(task, windows, jit_compile=True)


def hand_graph(task: Task, windows: Windows) -> None:
    """A graph loop of K steps a call, which fetches its batches itself."""
    step = make_step(task)
    batches = iter(pipeline(task))

    @tf.function
    def loop(count):
        sums = tf.zeros([2])
        for _ in tf.range(count):
            sums += step(*next(batches))
        return sums

    while windows.wait():
        for count in _calls(windows.steps, task.steps_per_call):
            loop(tf.constant(count)).numpy()


def hand_graph_fused(task: Task, windows: Windows) -> None:
    """The fastest graph loop known here: blocks of K uint8 batches as an argument, one fused Adam kernel a variable."""
    step = make_step(task, fused=True)
    blocks = iter(_stacked(task))

    @tf.function
    def loop(images, labels):
        sums = tf.zeros([2])
        for i in tf.range(tf.shape(labels)[0]):
            sums += step(_scaled(images[i]), labels[i])
        return sums

    while windows.wait():
        for _ in range(windows.steps // task.steps_per_call):
            loop(*next(blocks)).numpy()


def hand_xla(task: Task, windows: Windows) -> None:
    """One XLA program over K stacked batches; `steps` must be a multiple of K."""
    step = make_step(task)
    blocks = iter(_stacked(task))

    @tf.function(jit_compile=True)
    def program(images, labels):
        sums = tf.zeros([2])
        for i in tf.range(images.shape[0]):
            sums += step(_scaled(images[i]), labels[i])
        return sums

    while windows.wait():
        for _ in range(windows.steps // task.steps_per_call):
            program(*next(blocks)).numpy()


def _call_by_call(task: Task, windows: Windows, *, jit_compile: bool) -> None:
    sums = tf.Variable(tf.zeros([2]))
    step = make_step(task)
    batches = iter(pipeline(task))

    @tf.function(jit_compile=jit_compile)
    def call(images, labels):
        sums.assign_add(step(images, labels))

    while windows.wait():
        for _ in range(windows.steps):
            call(*next(batches))
        sums.numpy()


def _calls(steps: int, most: int) -> list[int]:
    """Lengths of the calls that make up `steps`."""
    return [min(most, steps - done) for done in range(0, steps, most)]


# --- Keras ------------------------------------------------------------------------------------------------------------


def keras_default(task: Task, windows: Windows) -> None:
    """`fit` as it comes: one step an execution, jit_compile="auto" (which on a CPU means no XLA)."""
    _fit(task, windows)


def keras_k100(task: Task, windows: Windows) -> None:
    """`fit` with K steps an execution."""
    _fit(task, windows, steps_per_execution=task.steps_per_call)


def keras_xla_k100(task: Task, windows: Windows) -> None:
    """`fit` with XLA, K steps an execution."""
    _fit(task, windows, jit_compile=True, steps_per_execution=task.steps_per_call)


class _NoMoreWindows(Exception):
    """Leaves `fit`."""


def _fit(task: Task, windows: Windows, **compile_arguments) -> None:
    class Gate(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if not windows.wait():
                raise _NoMoreWindows

    model = make_model(task)
    model.compile(
        optimizer=keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compile_arguments,
    )
    # A window is an epoch of one endless `fit`, so that neither the iterator nor its shuffle buffer starts again. The
    # progress bar, which costs time at every step, is off.
    try:
        model.fit(pipeline(task), epochs=10**9, steps_per_epoch=windows.steps, verbose=0, callbacks=[Gate()])
    except _NoMoreWindows:
        return


# --- modetrain --------------------------------------------------------------------------------------------------------


def modetrain_eager(task: Task, windows: Windows) -> None:
    """`mode=eager`."""
    _command(task, windows, "eager")


def modetrain_graph(task: Task, windows: Windows) -> None:
    """`mode=graph`."""
    _command(task, windows, "graph", f"mode.steps_per_call={task.steps_per_call}")


def modetrain_xla(task: Task, windows: Windows) -> None:
    """`mode=xla`."""
    _command(task, windows, "xla", f"mode.steps_per_call={task.steps_per_call}")


def _command(task: Task, windows: Windows, mode: str, *arguments: str) -> None:
    """The real command line, callbacks on; evaluation and checkpoints wait for the end of the run."""
    with tempfile.TemporaryDirectory() as folder:
        modetrain.main(
            [
                "recipe=mnist",
                "recipe.shift=0",
                "optimizer.schedule=constant",
                f"model={task.model}",
                f"model._target_=benchmarks.models.{task.model}",
                "model.dropout=0.0",
                "data.source=bundled",
                f"data.batch_size={task.batch_size}",
                "optimizer=adam",
                f"optimizer.learning_rate={LEARNING_RATE}",
                f"mode={mode}",
                "callbacks.log.every=100",
                "callbacks.evaluate.every=0",
                "callbacks.checkpoint.every=0",
                "+callbacks.windows._target_=benchmarks.windows.WindowsCallback",
                f"+callbacks.windows.fd={task.fd}",
                f"+callbacks.windows.steps={windows.steps}",
                "steps=1000000000",
                f"run_dir={Path(folder) / 'run'}",
                *arguments,
            ]
        )


CONTENDERS: dict[str, Callable[[Task, Windows], None]] = {
    contender.__name__: contender
    for contender in (
        hand_graph,
        hand_graph_fused,
        hand_call,
        hand_xla,
        hand_xla_call,
        hand_eager,
        keras_default,
        keras_k100,
        keras_xla_k100,
        modetrain_graph,
        modetrain_xla,
        modetrain_eager,
    )
}


# --- what they share --------------------------------------------------------------------------------------------------


def make_model(task: Task) -> keras.Model:
    """The model, for 28x28 digits, with the same first weights everywhere."""
    keras.utils.set_random_seed(0)
    return getattr(models, task.model)((28, 28, 1), 10)


def make_step(task: Task, *, fused: bool = False) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A training step (images, labels) -> [mean loss, accuracy]; `fused` takes TensorFlow's own Adam kernel."""
    model = make_model(task)
    variables = model.trainable_variables
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(variables)
    moments = [[tf.Variable(tf.zeros(v.shape)) for v in variables] for _ in range(2)]
    updates = tf.Variable(0.0)

    def update_fused(gradients):
        number = updates.assign_add(1.0)
        for gradient, variable, mean, square in zip(gradients, variables, *moments, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=mean.handle,
                v=square.handle,
                beta1_power=0.9**number,
                beta2_power=0.999**number,
                lr=LEARNING_RATE,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-7,
                grad=gradient,
            )

    def step(images, labels):
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        gradients = tape.gradient(loss, [v.value for v in variables])
        update_fused(gradients) if fused else optimizer.apply(gradients, variables)
        hits = tf.argmax(logits, axis=1, output_type=labels.dtype) == labels
        return tf.stack([loss, tf.reduce_mean(tf.cast(hits, tf.float32))])

    return step


def pipeline(task: Task) -> tf.data.Dataset:
    """Endless shuffled batches of float32 images; the fastest of the usual ways to write this, by measurement."""
    images_ready = _raw(lambda image, label: (_scaled(image), label))
    return images_ready.batch(task.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _stacked(task: Task) -> tf.data.Dataset:
    """Endless blocks of K shuffled batches of uint8 images."""
    batches = _raw().batch(task.batch_size, drop_remainder=True)
    return batches.batch(task.steps_per_call, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def _raw(prepare: Callable | None = None) -> tf.data.Dataset:
    source = sources.load(DataSettings(name="mnist", source="bundled"))
    images, labels = source.train["image"], source.train["label"]
    examples = tf.data.Dataset.from_tensor_slices((images, labels))
    if prepare is not None:
        examples = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    return examples.cache().shuffle(len(labels), seed=0).repeat()


def _scaled(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(images, tf.float32) / 255.0
