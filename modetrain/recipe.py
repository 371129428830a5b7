"""A recipe defines what one step does, and not how steps are run.

    class Digits(Recipe):
        def train_step(self, batch):
            def loss():
                logits = self.model(batch["image"], training=True)
                return cross_entropy(batch["label"], logits), {"accuracy": hits(batch["label"], logits)}
            return self.minimize(loss)

        def eval_step(self, batch): ...

`minimize` owns the tape. It does loss scaling, accumulation, clipping, the update and averaging, the same way in every mode.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from modetrain.engine import context, gather, metrics, step_state, untracked
from modetrain.engine.autograph import convert
from modetrain.engine.batching import Batch
from modetrain.engine.context import StepContext
from modetrain.engine.loss import Loss
from modetrain.engine.metrics import Layout
from modetrain.engine.optimizer import Optimizer, each_once
from modetrain.engine.random import Draws, named_seed
from modetrain.engine.replica_random import replica_share
from modetrain.engine.tf_internals import keras_scales_nothing
from modetrain.engine.values import Figure, Sum, Weighted
from modetrain.engine.variables import Snapshot, find_variables, iter_attributes
from modetrain.errors import ConfigError
from modetrain.settings import OptimizerSettings

Values = Mapping[str, tf.Tensor | Weighted | Sum]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Info:
    """What a recipe may know about its data and its run when it is made.

    Attributes:
      image_shape: (height, width, channels) of one example's image; empty without images.
      classes: number of classes; 0 without classes.
      train_examples, eval_examples: sizes of the two splits.
      batch_size: examples in one global training batch.
      steps: updates of the whole run.
      seed: the run's seed.
      facts: whatever else is known of the data set, by name; `info.vocabulary` is `info.facts["vocabulary"]`.
    """

    image_shape: tuple[int, ...] = ()
    classes: int = 0
    train_examples: int = 0
    eval_examples: int = 0
    batch_size: int = 0
    steps: int = 0
    seed: int = 0
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        facts = vars(self).get("facts", {})
        if name in facts:
            return facts[name]
        known = ", ".join([*(field.name for field in dataclasses.fields(self) if field.name != "facts"), *facts])
        raise AttributeError(f"the data set has no {name!r}; info has {known}.")

    def known(self) -> dict[str, Any]:
        """What a model or a recipe may ask for by the names of its parameters."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "facts"}
        if not self.image_shape:
            del own["image_shape"]
        if not self.classes:
            del own["classes"]
        return {**own, **self.facts}


class Recipe:
    """Base class of recipes: a model, its optimizer, one training step and one evaluation step.

    The default constructor makes one model with one optimizer; a recipe with several overrides it. Checkpoints hold every
    model, optimizer, `SeedGenerator` and variable that is an attribute, or in an attribute that is a list or dict.

    Args:
      model: a built Keras model, or a function that builds it: it gets what its parameters ask for by name of what `info`
        knows, such as `model(image_shape, classes) -> keras.Model`.
      optimizer: an `Optimizer`, its settings, or a function that builds it for given variables:
        `optimizer(variables, **changed_settings) -> Optimizer`.
      info: facts about the data and the run; by default an unknown data set and seed 0.
    """

    model: keras.Model
    optimizer: Optimizer
    info: Info = Info()  # the command line sets it where the constructor does not
    best_is: Mapping[str, str] = {}  # which end of a metric is the better one: {"perplexity": "min"}

    def __init__(
        self,
        *,
        model: keras.Model | Callable[..., Any],
        optimizer: Optimizer | OptimizerSettings | Callable[..., Optimizer],
        info: Info = Info(),
    ):
        self.info = info
        self.model = model if isinstance(model, keras.Model) else _build_model(model, info)
        if not isinstance(self.model, keras.Model):
            raise ConfigError(
                f"{type(self).__name__} trains one Keras model; model= made a {type(self.model).__name__}. Type model=cnn or "
                "model=mlp."
            )
        self.optimizer = _build_optimizer(optimizer, self.model.trainable_variables)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OURS and not callable(value):
            raise AttributeError(f"self.{name} belongs to modetrain.Recipe: give your attribute another name.")
        if name == "info" and not isinstance(value, Info):
            raise TypeError(
                f"self.info = {value!r}: expected is a modetrain.Info, as the constructor's parameter `info` is. Leave the line "
                "out for an unknown data set and seed 0."
            )
        super().__setattr__(name, value)

    # --- what a recipe's author writes ------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> Values:
        """Trains on one batch (by feature a tensor [examples, ...]); returns what `eval_step` may return."""
        raise NotImplementedError(f"{type(self).__name__} has no train_step(self, batch).")

    def eval_step(self, batch: Batch) -> Values:
        """Evaluates one batch.

        Returns:
          By name one value per example, a scalar that is the batch's mean, a `Weighted`, or a `Sum`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no eval_step(self, batch).")

    def prepare(self, batch: Batch, *, seed: tf.Tensor, training: bool) -> Batch:
        """Prepares one batch in the input pipeline (`Dataset.map`), for example augments it.

        Without a `prepare` (see `prepares`) the pipeline gathers whole blocks of batches at once.

        Args:
          batch: raw examples; images as they are stored, mostly uint8 [examples, height, width, channels].
          seed: int32 [2], a function of (seed, step), for `tf.random.stateless_*`.
          training: whether this is a training batch.

        Returns:
          The batch for the step: a dict of dense tensors [examples, ...], as many examples as `batch` has. Each step scales
          uint8 and uint16 images to [0, 1]: float32, or float64 with mode.precision=float64.
        """
        return batch

    @property
    def prepares(self) -> bool:
        """Whether `prepare` does anything: by default, whether the recipe overrides it."""
        return type(self).prepare is not Recipe.prepare

    def show(self) -> Mapping[str, tf.Tensor | str]:
        """Images for TensorBoard at each evaluation: {name: [n, height, width, channels]}, uint8 or floats in [0, 1]; or texts.

        `show(self, batch)` gets the first 16 evaluation examples too.
        """
        return {}

    def summarize(self, sums: Mapping[str, np.ndarray]) -> Mapping[str, Figure]:
        """Makes figures of what `Sum` has added up over an evaluation, or over a window of training steps.

        Args:
          sums: float64, by the name that the step returned.

        Returns:
          By name a number, an image [height, width, channels] or [height, width], or a text.
        """
        return {}

    # --- what a step may use ----------------------------------------------------------------------------------------

    @tf.autograph.experimental.do_not_convert
    def minimize(
        self,
        loss_fn: Callable[[], Any],
        variables: Sequence[keras.Variable] | None = None,
        optimizer: Optimizer | None = None,
    ) -> Values:
        """Minimizes a loss by one update, which takes effect at once.

        The gradients are those of the mean over the batch plus Keras's penalties, each once: the regularizers of the
        variables, and what the layers of a model with such variables add in `loss_fn` (`activity_regularizer`, `add_loss`).
        A penalty that the loss holds already, as one with `tf.add_n(self.model.losses)` does, is not added again.

        Args:
          loss_fn: computes the loss: one value per example, a scalar, or a `Weighted`, whose mean is that of the whole global
            batch; or (loss, {name: value}).
          variables: what to update; all of the optimizer's variables by default.
          optimizer: `self.optimizer` by default.

        Returns:
          {"loss": ..., **the other values}, before the update; a step may return it unchanged.
        """
        optimizer = _check_optimizer(optimizer or self.optimizer)
        variables = optimizer.trainable if variables is None else each_once(variables)
        found = Loss.compute(loss_fn, variables, optimizer, self._keras_layers)
        context.now().note_square({"loss": found.loss})
        self._apply(found.gradients, variables, optimizer, found.objective, found.weight)
        return {"loss": found.loss, **found.values}

    @tf.autograph.experimental.do_not_convert
    def apply(
        self,
        gradients: Sequence,
        variables: Sequence[keras.Variable] | None = None,
        optimizer: Optimizer | None = None,
        *,
        weight: tf.Tensor | None = None,
    ) -> None:
        """The update of `minimize`, for gradients that a step has computed with its own tape; it adds no penalties.

        Args:
          gradients: gradients of the mean over the batch, one for each variable.
          variables, optimizer: as in `minimize`.
          weight: of a loss with weights the mean of the weights; the gradients are then those of the mean of values times weights.
        """
        optimizer = _check_optimizer(optimizer or self.optimizer)
        self._apply(gradients, list(optimizer.trainable if variables is None else variables), optimizer, None, weight)

    @property
    def step(self) -> tf.Tensor | int:
        """Updates completed before the running step (int64 scalar); in evaluation the index of the batch."""
        return context.now().number

    @tf.autograph.experimental.do_not_convert
    def seed(self, name: str) -> tf.Tensor:
        """An int32 [2] seed for `tf.random.stateless_*`, a function of (seed, step, name)."""
        running = context.now()
        return named_seed(self.info.seed, name, running.number, running.part)

    @tf.autograph.experimental.do_not_convert
    def gather(self, tensor: tf.Tensor) -> tf.Tensor:
        """Every replica's rows of `tensor` [n, ...], in the order of the global batch: for losses over pairs of examples.

        On one device the tensor itself. Gradients flow back to the replica that made a row. With `optimizer.accumulate` it
        sees the rows of one micro-batch. `self.first_row(tensor)` is the number of the first row that is this replica's own.
        """
        return gather.gather(tensor)

    @tf.autograph.experimental.do_not_convert
    def first_row(self, tensor: tf.Tensor) -> tf.Tensor | int:
        """The number of this replica's first row among those that `gather(tensor)` returns; 0 on one device."""
        return gather.first_row(tensor)

    # --- what the library calls -------------------------------------------------------------------------------------

    def run_train_step(self, batch: Mapping[str, tf.Tensor], running: StepContext) -> tuple[Layout, tf.Tensor]:
        """Runs `train_step` on a batch or a micro-batch; the last micro-batch of a step makes the update.

        Returns:
          The metrics as a row [slots, 2] and its layout (see `metrics.pack_row`); the optimizers' metrics come last.
        """
        self._draws().seek(running.number, running.part)
        batch = scale_images(batch)
        with replica_share(_count_examples(batch)), self._keep_finite():
            values = self._run("train_step", batch, running)
        row = metrics.pack_row(values, _count_examples(batch))
        running.note_square(values)
        clash = sorted(set(running.seen) & set(values))
        if clash:
            raise ValueError(f"a step must not return {', '.join(clash)}: the library reports it itself.")
        if running.seen:
            pairs = tf.stack([tf.stack([tf.cast(x, row.dtype) for x in pair]) for pair in running.seen.values()])
            row = tf.concat([row, pairs], axis=0)
        return self._layout(values, list(running.seen)), row

    def run_eval_step(self, batch: Mapping[str, tf.Tensor], running: StepContext) -> tuple[Layout, tf.Tensor]:
        """Evaluates batch number `running.number`; returns the metrics as a row and its layout."""
        self._draws().seek(running.number)
        batch = scale_images(batch)
        values = self._run("eval_step", batch, running)
        row = metrics.pack_row(values, _count_examples(batch))
        running.note_square(values)
        return self._layout(values), row

    @property
    def micro_batches(self) -> int:
        """Number of micro-batches in a step.

        Raises:
          ValueError: the optimizers differ.
        """
        wanted = {optimizer.settings.accumulate for optimizer in self.optimizers().values()} or {1}
        if len(wanted) > 1:
            raise ValueError(
                f"the optimizers of {type(self).__name__} have accumulate={sorted(wanted)}: a step has one number of "
                "micro-batches. Make all optimizers with the same accumulate."
            )
        return wanted.pop()

    def state(self) -> dict[str, Any]:
        """Every variable of the recipe by name, `<attribute>/<index>/<name>`, in the order of the attributes.

        Raises:
          ConfigError: two variables have one name.
        """
        return find_variables(self)

    def optimizers(self) -> dict[str, Optimizer]:
        """The recipe's optimizers by name: the attribute's name, or `<attribute>/<index or key>` in a list or dict."""
        return {name: thing for name, thing in iter_attributes(self) if isinstance(thing, Optimizer)}

    def models(self) -> list[keras.Model]:
        """The recipe's Keras models."""
        return [thing for thing in self._keras_layers() if isinstance(thing, keras.Model)]

    def seek(self, step: int) -> None:
        """Sets every seed generator to the begin of step `step`."""
        self._draws().seek(step)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[bool]:
        """Within this the weights are their moving averages, if an optimizer has them; yields whether one does."""
        pairs = [
            (variable, average)
            for optimizer in self.optimizers().values()
            for variable, average in zip(optimizer.trainable, optimizer.averages, strict=False)
        ]
        with Snapshot(variable for variable, _ in pairs):
            for variable, average in pairs:
                variable.assign(average)
            yield bool(pairs)

    # --- private ----------------------------------------------------------------------------------------------------

    def _layout(self, values: Values, optimizer: Sequence[str] = ()) -> Layout:
        layout = metrics.layout_of(values, optimizer)
        for spec in layout.sums if type(self).summarize is Recipe.summarize else ():
            if spec.shape and spec.summarize is None:
                raise ConfigError(
                    f"the step returned {spec.name!r}, a Sum of shape {spec.shape}, and nothing makes a figure of it. Write "
                    f"def summarize(self, sums): return {{'name': number}} in {type(self).__name__}, or Sum(tensor, function)."
                )
        return layout

    def _run(self, method: str, batch: Mapping[str, tf.Tensor], running: StepContext) -> Values:
        context.begin(running)
        with keras_scales_nothing(), step_state.in_step(self, method):
            values = convert(getattr(self, method))(Batch(batch))
        context.end()  # not after a failure: the debugger may read self.step
        return values

    @contextlib.contextmanager
    def _keep_finite(self) -> Iterator[None]:
        """If updates may be skipped, other variables that a step writes (such as moving averages) stay finite too."""
        optimizers = self.optimizers().values()
        if not any(optimizer.nonfinite == "skip" for optimizer in optimizers):
            yield
            return
        known = {id(v) for optimizer in optimizers for v in (*optimizer.trainable, *optimizer.variables)}
        others = [v for v in self.state().values() if id(v) not in known and tf.as_dtype(v.dtype).is_floating]
        plain = [v.value if isinstance(v, keras.Variable) else v for v in others]
        before = [tf.identity(v) for v in plain]
        yield
        for variable, old in zip(plain, before, strict=True):
            new = tf.identity(variable)
            kept = tf.where(tf.reduce_all(tf.math.is_finite(new)), new, old)
            # By its handle: every replica writes its own copy.
            tf.raw_ops.AssignVariableOp(resource=variable.handle, value=kept)

    def _apply(
        self,
        gradients: Sequence,
        variables: Sequence[keras.Variable],
        optimizer: Optimizer,
        objective: tf.Tensor | None,
        weight: tf.Tensor | None,
    ) -> None:
        untracked.check_in_use(self, optimizer)
        suffix = "" if optimizer is getattr(self, "optimizer", None) else f"/{self._name_of(optimizer)}"
        context.now().update(optimizer, gradients, variables, objective, suffix=suffix, weight=weight)

    def _name_of(self, optimizer: Optimizer) -> str:
        name = next((n for n, o in self.optimizers().items() if o is optimizer), "optimizer")
        return name.removesuffix("_optimizer")

    def _keras_layers(self) -> list[keras.Layer]:
        """The recipe's Keras layers that are attributes; models are layers too."""
        return [thing for _, thing in iter_attributes(self) if isinstance(thing, keras.Layer)]

    def _draws(self) -> Draws:
        if self._seeded is None:
            states = {name: v for name, v in self.state().items() if v.name == "seed_generator_state"}
            self._seeded = Draws(states, self.info.seed)
        return self._seeded

    _seeded: Draws | None = None


def scale_images(batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    """Converts a uint8 or uint16 `image` to `keras.config.floatx()` in [0, 1]; everything else stays unchanged."""
    image = batch.get("image")
    if image is None or image.dtype not in (tf.uint8, tf.uint16):
        return batch
    return {**batch, "image": tf.cast(image, keras.config.floatx()) / float(image.dtype.max)}


def _build_model(model: Callable[..., Any], info: Info) -> Any:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    asked = {name: one for name, one in inspect.signature(model).parameters.items() if one.kind in kinds}
    known = info.known()
    if all(name in known or one.default is not one.empty for name, one in asked.items()):
        return model(**{name: known[name] for name in asked if name in known})
    return model(info.image_shape, info.classes)  # parameters of other names are these two


def _build_optimizer(optimizer: Any, variables: Sequence[keras.Variable]) -> Optimizer:
    if isinstance(optimizer, OptimizerSettings):
        return Optimizer(variables, optimizer, loss_scaling=keras.config.dtype_policy().name == "mixed_float16")
    if isinstance(optimizer, keras.optimizers.Optimizer) or not callable(optimizer):
        return _check_optimizer(optimizer)
    return optimizer(variables)


def _count_examples(batch: Mapping[str, tf.Tensor]) -> int:
    size = next(iter(batch.values())).shape[0]
    assert size is not None  # blocks have static shapes
    return size


_OURS = frozenset(name for name in vars(Recipe) if not name.startswith("_")) - {"info", "best_is"}


def _check_optimizer(optimizer: Optimizer) -> Optimizer:
    if isinstance(optimizer, Optimizer):
        return optimizer
    kind = type(optimizer)
    raise TypeError(
        f"optimizer= is a {kind.__module__}.{kind.__name__}, which does not support the library's accumulation, loss scaling, "
        "replicas and averages of weights. Make it in __init__ with optimizer(variables, name=..., learning_rate=...), or pass "
        "modetrain.OptimizerSettings(name='adam', learning_rate=1e-3)."
    )
