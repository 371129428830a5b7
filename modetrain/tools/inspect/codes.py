"""Every code that `inspect` knows: what it means, why it matters and what to write instead.

`docs/reference/inspect.md` shows the same table with examples; a test keeps the two equal.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Code:
    """The texts of every finding with one code.

    Attributes:
      title: what it is, in a few words.
      why: why it matters.
      fix: what to write instead.
      mode: in which mode it matters: see `Finding.mode`.
      note: whether it is a note by itself: see `Finding.note`.
    """

    title: str
    why: str
    fix: str
    mode: str = "graph"
    note: bool = False


_ONCE = "A traced step runs its Python once, to record the graph; every later step only repeats the recorded operations"
_FROZEN = "The value of the first trace is a constant of the graph: every step uses the same one"

CODES: Mapping[str, Code] = {
    # --- side effects, and values asked for while tracing
    "MT101": Code(
        title="prints only while tracing",
        why=f"{_ONCE}, so this is printed once and never again, and a tensor in it has no value yet.",
        fix="Use tf.print, or return the value from the step: callbacks and TensorBoard show it.",
    ),
    "MT102": Code(
        title="logs or warns only while tracing",
        why=f"{_ONCE}, so this is logged once and never again.",
        fix="Return the value from the step and log it in a callback's on_step(), or use tf.print.",
    ),
    "MT103": Code(
        title="touches files, processes or the network only while tracing",
        why=f"{_ONCE}, so this happens once, not at each step.",
        fix="Do it in __init__ or in a callback; return from the step what it needs.",
    ),
    "MT104": Code(
        title="stops in the debugger, or waits, only while tracing",
        why=f"{_ONCE}: the debugger sees symbols without values, and a pause happens once.",
        fix="Run with mode=eager, where it stops at every step with values; take it out for compiled modes.",
    ),
    "MT105": Code(
        title="asks a tensor for its value",
        why="While a step is traced tensors have no values, so tracing fails at this line.",
        fix="Stay in TensorFlow operations (tf.cond, tf.where, tf.cast, ...), or return the tensor and look at it in a callback.",
    ),
    "MT106": Code(
        title="calls back into Python (py_function, numpy_function)",
        why="It runs under Python's lock in the middle of the graph, breaks the gradient (numpy_function), cannot be saved, and "
        "XLA and TPUs cannot compile it.",
        fix="Write it in TensorFlow operations, or do it in prepare() or before training.",
    ),
    "MT107": Code(
        title="cannot be traced",
        why="The step runs line by line, but TensorFlow cannot record it as a graph.",
        fix="The message says what TensorFlow needs; `mode=eager --pdb` steps through it with values.",
    ),
    # --- Python state
    "MT201": Code(
        title="changes a Python value",
        why=f"{_ONCE}, so the value changes when the step is traced and then stays.",
        fix="Keep what changes from step to step in a tf.Variable made in __init__ (assign, assign_add), or use self.step.",
    ),
    "MT202": Code(
        title="changes a Python container",
        why=f"{_ONCE}, so the list, dict or set is changed when the step is traced and never again.",
        fix="Return the value from the step, or keep it in a tf.Variable made in __init__; a list local to the step is fine.",
    ),
    "MT203": Code(
        title="keeps a tensor of the step beyond the step",
        why="What is kept is a symbol of the graph without a value: using it later fails, or holds the whole graph in memory.",
        fix="Return the tensor from the step, or assign it to a tf.Variable made in __init__.",
    ),
    "MT204": Code(
        title="caches a tensor of the step (lru_cache)",
        why="The cache returns a symbol of an old graph at the next trace, which fails, or in another mode.",
        fix="Cache NumPy arrays or plain numbers, not tensors, or compute it in __init__.",
    ),
    "MT205": Code(
        title="takes the next item of an iterator",
        why=f"{_ONCE}, so one item is taken when the step is traced and all steps use it.",
        fix="Use what the batch holds; take items in prepare(), or index a tensor by self.step.",
    ),
    "MT206": Code(
        title="makes a variable, layer, optimizer or metric in the step",
        why="Made at each step, eager has a new one at every step, and a traced step one per trace, or it fails. Made in the first "
        "step alone, no optimizer updates it, and a run that is resumed has no place for what the checkpoint holds of it.",
        fix="Make it in the recipe's __init__ as an attribute, and use it in the step.",
    ),
    "MT207": Code(
        title="reads or writes a variable outside of the graph (tf.init_scope)",
        why=f"{_ONCE}: what is read is a constant of the graph, and what is written is not written again.",
        fix="Read and assign variables in the step itself: in a graph too their values are those of the step.",
    ),
    # --- frozen values
    "MT301": Code(
        title="a Python or NumPy random number is frozen",
        why=f"{_FROZEN}, where eager draws new ones at each step.",
        fix='Use tf.random.stateless_uniform(shape, seed=self.seed("name")) and its like: new numbers at each step, the same in '
        "every mode.",
    ),
    "MT302": Code(
        title="the time of the trace is frozen",
        why=f"{_FROZEN}; such a duration is that of tracing, not of a step.",
        fix="Measure in a callback; modetrain measures the time of steps itself (speed/ in TensorBoard). For progress use "
        "self.step.",
    ),
    "MT303": Code(
        title="a value that differs from process to process is frozen",
        why="id(), hash() of a text, the order of a set, uuid, os.urandom and os.getpid() differ from run to run: the graph, and "
        "so the run, cannot be repeated.",
        fix="Sort what is iterated over (sorted(...)), and use a number of your own or self.seed(...) instead.",
    ),
    "MT304": Code(
        title="two traces of the step differ",
        why="The step depends on something besides its batch, its variables and self.step; it is frozen as it was at the first "
        "trace.",
        fix="Find what changes between the traces at this line, and make it a tensor: a variable, self.step or self.seed(...).",
    ),
    "MT305": Code(
        title="draws from TensorFlow's stateful generators",
        why="Every mode draws from the same distribution, but such a step cannot be replayed or resumed. Eager and graph draw the "
        "same numbers with seed= or from a tf.random.Generator, others without; XLA draws others, and takes no seed=.",
        fix='Use tf.random.stateless_* with seed=self.seed("name"), or a Keras Dropout layer, which modetrain seeds by step.',
        note=True,
    ),
    "MT306": Code(
        title="two eager runs of the step differ",
        why="From the same state, batch and step two runs gave different results, so no mode can reproduce the other.",
        fix="Make the step a function of its batch, its variables, self.step and self.seed(...).",
    ),
    "MT307": Code(
        title="the traced step computes something else than the eager one",
        why="On the same batch from the same state the graph gave other results or left other variables than Python line by line.",
        fix="Compare them step by step with do=compare; look for code that asks tf.executing_eagerly() or catches errors.",
    ),
    "MT308": Code(
        title="the step fails on a batch",
        why="Eager mode stops at it, and so does graph mode.",
        fix="`mode=eager --pdb` stops at the line with values.",
    ),
    # --- host-side changes
    "MT401": Code(
        title="a Python value that changes between steps",
        why=f"{_FROZEN}. Changing it later, in a callback say, has no effect on the compiled step.",
        fix="Make it a tf.Variable in __init__ and assign to it, or compute it from self.step.",
    ),
    "MT402": Code(
        title="a branch on a Python value that changes between steps",
        why="The branch is chosen when the step is traced; the other one is not in the graph and will never run.",
        fix="Compute the condition from tensors (self.step, a tf.Variable): `if` on a tensor is converted.",
    ),
    "MT403": Code(
        title="layer.trainable is changed after tracing",
        why="Which variables get gradients is decided when the step is traced; changing it later has no effect.",
        fix="Give minimize the variables to update, or scale their gradients by a tf.Variable; make the optimizer for all of them.",
    ),
    "MT404": Code(
        title="an optimizer, model or function is swapped after tracing",
        why="The graph holds the variables of the object that was there when the step was traced, and goes on using them.",
        fix="Make both in __init__ and choose by tf.cond on self.step or a variable; or start a new run with resume=.",
    ),
    "MT405": Code(
        title="changes what a compiled step has frozen",
        why="The step took the value when it was traced; this change has no effect on it.",
        fix="Make it a tf.Variable in __init__ and assign to it here.",
    ),
    # --- the graph
    "MT501": Code(
        title="a Python loop is unrolled",
        why="Every round is recorded as operations of its own: tracing and compiling take longer, and memory grows.",
        fix="Loop over a tensor (`for i in tf.range(n)`), use tf.while_loop, tf.scan or tf.map_fn, or one vectorised operation.",
    ),
    "MT502": Code(
        title="is traced again",
        why="Each new shape, dtype or Python value of an argument traces and compiles the step again.",
        fix="Give every batch the same shapes (drop or pad the rest), and pass numbers as tensors.",
    ),
    "MT503": Code(
        title="XLA compiles again, which the number of traces does not show",
        why="A signature with None is traced once, but XLA compiles a program for every shape it meets.",
        fix="Pad to one shape, or a few, before the compiled function is called.",
        mode="xla",
    ),
    "MT504": Code(
        title="a shape depends on the data",
        why="XLA and TPUs compile for fixed shapes: this fails to compile, or runs slowly padded to the largest possible size.",
        fix="Mask instead of selecting: tf.where(mask, x, 0.0), a weighted mean, top_k with a fixed k.",
        mode="xla",
    ),
    "MT505": Code(
        title="an operation that XLA cannot compile",
        why="mode=xla and mode=tpu fail when they compile the step.",
        fix="Do it in prepare(), which is never compiled by XLA, or write it with operations that XLA has.",
        mode="xla",
    ),
    "MT506": Code(
        title="a type that TPUs compute slowly or not at all",
        why="TPUs have no double precision: float64 is emulated many times slower, complex128 is refused.",
        fix="Compute in float32 or bfloat16 (tf.cast, mode.precision=mixed_bfloat16).",
        mode="tpu",
    ),
    # --- what XLA drops
    "MT601": Code(
        title="an index is out of range",
        why="Eager and graph stop with an error; XLA takes another row, or none, without an error.",
        fix="Fix the indices (vocabulary size, off by one); with mode.guards=true a compiled run stops there too.",
        mode="xla",
    ),
    "MT602": Code(
        title="a label is out of range",
        why="Eager and graph stop with an error; XLA makes the loss NaN, or ignores the label, without an error.",
        fix="Fix the labels or the number of classes; with mode.guards=true a compiled run stops there too.",
        mode="xla",
    ),
    "MT603": Code(
        title="an integer is divided by zero",
        why="Eager and graph stop with an error; XLA returns some number without an error.",
        fix="Guard the divisor, tf.maximum(n, 1); with mode.guards=true a compiled run stops there too.",
        mode="xla",
    ),
    "MT604": Code(
        title="a check that XLA leaves out",
        why="tf.debugging.assert_*, tf.Assert and checks that operations make stop eager and graph; XLA compiles the step "
        "without them.",
        fix="Keep mode.guards=true (the default of mode=xla), which raises them from the compiled program.",
        mode="xla",
    ),
    "MT605": Code(
        title="a numeric check that XLA leaves out",
        why="tf.debugging.check_numerics stops eager and graph; under XLA it lets NaN and infinity pass.",
        fix="Keep mode.guards=true (the default of mode=xla), which raises it from the compiled program.",
        mode="xla",
    ),
    "MT606": Code(
        title="a number is cast to an integer type that cannot hold it",
        why="The result of casting NaN, infinity or a number out of range differs from device to device.",
        fix="Clip before casting: tf.clip_by_value, tf.where(tf.math.is_finite(x), x, 0.0).",
        mode="xla",
    ),
    "MT607": Code(
        title="a matrix cannot be inverted or factored",
        why="Eager and graph stop with an error; XLA returns NaN without an error.",
        fix="Add a small multiple of the identity; with mode.guards=true a compiled run stops there too.",
        mode="xla",
    ),
    # --- replicas
    "MT701": Code(
        title="a loss that is not the mean over examples",
        why="Replicas and micro-batches (optimizer.accumulate) compute it on their shares of the batch, and the shares are "
        "averaged: sums, ratios and divisions by the global batch size become something else.",
        fix="Return one loss per example, or their mean over the batch that the step was given: the library averages the rest. "
        "A mean under a mask or with sample weights is modetrain.Weighted(values, weights), which is exact in the same way.",
        mode="replicas",
    ),
    "MT702": Code(
        title="statistics of the batch are those of each share of it",
        why="Normalising by the mean of a share, or comparing the examples of a share, is not doing so with the batch: replicas "
        "and micro-batches compute something else.",
        fix="Use keras.layers.BatchNormalization with mode.sync_batch_norm=true, or all_reduce the moments.",
        mode="replicas",
    ),
    "MT703": Code(
        title="gradients are clipped by hand on each replica",
        why="Clipping before the mean over replicas is not clipping the gradient of the batch: directions and sizes differ.",
        fix="Leave it to optimizer.clip_norm=, which clips after the mean.",
        mode="replicas",
    ),
    "MT704": Code(
        title="replicas assign different values to a variable",
        why="Each replica assigns what it computed from its own share: the copies drift apart, and a checkpoint keeps the first.",
        fix='Take the mean first: tf.distribute.get_replica_context().all_reduce("MEAN", value).',
        mode="replicas",
    ),
    "MT705": Code(
        title="replicas draw equal, or unrelated, random numbers",
        why="Stateful generators give every replica the same numbers (with seed=), or numbers that one device would not draw.",
        fix='Use self.seed("name") with tf.random.stateless_* of one value per example: modetrain gives each replica its rows.',
        mode="replicas",
    ),
    "MT706": Code(
        title="a Keras optimizer is applied by hand",
        why="It clips gradients before their mean over the replicas is taken, and knows nothing of accumulation.",
        fix="Use self.minimize(loss) or self.apply(gradients, variables).",
        mode="replicas",
    ),
    "MT707": Code(
        title="a metric that is not the mean over examples",
        why="Each replica, micro-batch and evaluation batch computes its own, and what is shown is the mean of these: a maximum, a "
        "ratio or a sum becomes something else.",
        fix="Return one value per example, modetrain.Weighted(values, weights), or a modetrain.Sum of what the figure is made from "
        "(modetrain.metrics has AUC, F1 and others).",
        mode="replicas",
    ),
    "MT708": Code(
        title="a number for every pair of examples",
        why="Labels [n] against outputs [n, 1] are broadcast to [n, n]: each label is compared with every output, so the step "
        "trains next to nothing and nothing fails.",
        fix="Give both the same shape: outputs[:, 0] against labels [n], or labels[:, None] against outputs [n, 1]. Where pairs "
        "are meant, write both dimensions: x[:, None] and y[None, :].",
    ),
    # --- data
    "MT801": Code(
        title="the input pipeline draws from a stateful generator",
        why="Its numbers depend on how many were drawn before and by which thread: batches are no function of (seed, step), so "
        "modes see different data and a resumed run other data than before.",
        fix="Use tf.random.stateless_* or tf.image.stateless_random_* with the seed that prepare() is given.",
        mode="data",
    ),
    "MT802": Code(
        title="Python that runs once in the input pipeline",
        why="prepare() is traced by Dataset.map: random numbers, clocks and prints of Python happen once, and are frozen for all "
        "batches.",
        fix="Use the seed that prepare() is given with tf.random.stateless_*.",
        mode="data",
    ),
    "MT803": Code(
        title="a data set whose order is not fixed",
        why="Shuffling without a seed, or letting threads deliver as they finish, gives another order in every run.",
        fix="Give shuffle a seed, list_files shuffle=False, and leave deterministic=True.",
        mode="data",
    ),
    "MT804": Code(
        title="the input pipeline calls back into Python",
        why="It runs under Python's lock, one call at a time, cannot be restored, and its random numbers depend on threads.",
        fix="Write it in TensorFlow operations, or prepare the arrays before training.",
        mode="data",
    ),
    "MT805": Code(
        title="prepare() gives different batches for the same seed",
        why="Batches must be a function of (seed, step): else modes see different data and nothing can be replayed.",
        fix="Draw with tf.random.stateless_* from the seed that prepare() is given.",
        mode="data",
    ),
}
