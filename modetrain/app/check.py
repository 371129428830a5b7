"""Checks of a run: configuration and data before TensorFlow is imported, the user's own code after.

settings = check.load(words, cwd, config_dirs)     # in well under a second
import tensorflow
check.code(words, cwd, config_dirs)                # imports what recipe, model and callbacks name
"""

from __future__ import annotations

import ast
import collections.abc
import contextlib
import inspect
import math
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain.config import files, targets
from modetrain.config import load as config
from modetrain.config.compose import Composition
from modetrain.config.other_names import EPOCHS
from modetrain.data.sources import load as sources
from modetrain.diagnostics import location
from modetrain.errors import ConfigError, closest
from modetrain.files import paths
from modetrain.files.quoting import key_of, proposal
from modetrain.schema import text
from modetrain.settings import AUTO, Settings
from modetrain.training.metric_direction import Monitored, name_of

# What the hooks of a callback were called in version 0.1.
_FORMER_HOOKS = {
    "look": "on_step(self, trainer)",
    "call": "on_steps_end(self, trainer, metrics)",
    "start": "on_train_begin(self, trainer)",
    "end": "on_train_end(self, trainer)",
    "rewind": "on_rollback(self, trainer)",
}


def load(words: Sequence[str], cwd: Path, config_dirs: Sequence[str] = ()) -> Settings:
    """Loads and checks the settings of a run, and its data as far as that goes without TensorFlow.

    Raises:
      ConfigError: the configuration cannot run.
    """
    try:
        settings = config.load(words, cwd, config_dirs)
    except ConfigError as error:
        more = ""
        with contextlib.suppress(Exception):  # there are other problems, which `error` names
            more = f"\n{_epochs_in_steps(words, cwd, config_dirs)}"
        raise ConfigError(f"{error}{more}") from None
    sources.check(settings.data, evaluates=settings.evaluates)
    return settings


def _epochs_in_steps(words: Sequence[str], cwd: Path, config_dirs: Sequence[str]) -> str:
    """How many steps the typed epochs are, where the number of examples is known."""
    (typed,) = [word for word in words if key_of(word).rpartition(".")[2] in EPOCHS]
    epochs = float(typed.partition("=")[2])
    data = config.load([word for word in words if word != typed], cwd, config_dirs).data
    examples = sources.count_training(data)
    assert examples is not None
    steps = math.ceil(epochs * examples / data.batch_size)
    return f"{typed}: {epochs:g} epochs of {examples:,} examples are {steps} steps of {data.batch_size}. Type steps={steps}."


def code(words: Sequence[str], cwd: Path, config_dirs: Sequence[str] = ()) -> None:
    """Imports the code that the configuration names, and checks its arguments. Slow, because it imports TensorFlow.

    Raises:
      ConfigError: the arguments do not fit, or it is no recipe, model or callback; a line for each reason.
      Exception: whatever importing it raises.
    """
    problems = list(dict.fromkeys(_problems(config.composed(words, cwd, config_dirs), cwd, config_dirs)))
    if problems:
        raise ConfigError("\n".join(problems))


def _problems(composition: Composition, cwd: Path, config_dirs: Sequence[str]) -> Iterator[str]:
    own = targets.own(composition.config)
    for section, node in own.items():
        before: Any = composition.base
        for part in section.split("."):
            before = before.get(part) if isinstance(before, Mapping) else None
        facts = None if "data" in own else targets.KNOWN  # what a data function knows shows when it is called
        served = () if section == "data" else facts
        yield from targets.check(section, node, before, composition.given, served)
    for section, node in own.items():
        with contextlib.suppress(LookupError):
            yield from _class_problems(section, node, composition)
    with contextlib.suppress(LookupError):
        yield from _metric_problems(composition)
        yield from _model_problems(own, composition, paths.conf_dirs(cwd, config_dirs))


def _class_problems(section: str, node: Any, composition: Composition) -> Iterator[str]:
    """A recipe derives from `Recipe` and has the steps that the run makes, a callback from `Callback`."""
    from modetrain.callback import Callback
    from modetrain.recipe import Recipe

    if section in ("model", "data") or not isinstance(node, Mapping) or node.get("_partial_"):
        return
    cls = targets.find(node["_target_"])
    what, base = ("recipe", Recipe) if section == "recipe" else ("callback", Callback)
    if not inspect.isclass(cls):
        return
    given, where = composition.given(f"{section}._target_", node["_target_"]), location.of_class(cls)
    if not issubclass(cls, base):
        yield (
            f"{given}: class {cls.__name__} in {where} is no {what}, it does not derive from modetrain.{base.__name__}. Write "
            f"class {cls.__name__}(modetrain.{base.__name__}): there."
        )
        return
    if section != "recipe":
        yield from _hook_problems(cls, given, where)
        return
    do, callbacks = composition.config["do"]["name"], composition.config.get("callbacks") or {}
    evaluates = do == "evaluate" or callbacks.get("evaluate") is not None
    needed = {"train_step": do != "evaluate", "eval_step": evaluates}
    there = {name for one in cls.__mro__[: cls.__mro__.index(base)] for name in vars(one)}
    for method in (name for name, wanted in needed.items() if wanted and name not in there):
        near = closest(method, there - {*needed})
        fix = f"Did you mean {method}, where it says {near}?" if near else f"Write def {method}(self, batch): in it."
        yield f"{given}: class {cls.__name__} in {where} has no {method}, which the run calls. {fix}"


def _hook_problems(cls: type, given: str, where: str) -> Iterator[str]:
    """A callback overrides one of the hooks that the trainer calls, else it would do nothing."""
    from modetrain.callback import Callback

    hooks = [name for name in vars(Callback) if name.startswith("on_") or name == "next_step"]
    if hasattr(cls, "restore") and cls.load_state is Callback.load_state:  # type: ignore[attr-defined]
        yield f"{given}: class {cls.__name__} in {where} has restore, which is now load_state. Write def load_state(self, state):."
    if any(getattr(cls, name) is not getattr(Callback, name) for name in hooks):
        return
    former = next((f"{name} is now {now}. " for name, now in _FORMER_HOOKS.items() if hasattr(cls, name)), "")
    yield (
        f"{given}: class {cls.__name__} in {where} has none of the methods that a trainer calls, so it would do nothing. {former}"
        f"Write one of {', '.join(hooks)} in it."
    )


def _metric_problems(composition: Composition) -> Iterator[str]:
    """`callbacks.checkpoint.best` is a metric that `eval_step` returns, where its source shows that, and has a direction."""
    config, key = composition.config, "callbacks.checkpoint.best"
    callbacks = config.get("callbacks") or {}
    save, target = callbacks.get("checkpoint") or {}, config["recipe"]["_target_"]
    best, recipe = save.get("best"), targets.find(target)
    if best in (None, AUTO) or callbacks.get("evaluate") is None or config["do"]["name"] != "train":
        return
    names, name = returned(getattr(recipe, "eval_step", None)), name_of(best)
    if names and name not in names:
        near = closest(name, names)
        fix = f"Type {proposal(key, names[0])}, or {key}=null for none."
        fix = f"Did you mean {proposal(key, near)}?" if near else fix
        yield f"{composition.given(key, best)}: eval_step of {target} returns {', '.join(names)}, and no {name!r}. {fix}"
        return
    stated = getattr(recipe, "best_is", None)
    if stated is None or isinstance(stated, Mapping):  # a property is read when the recipe is made
        try:
            Monitored.parse(best, save.get("best_is"), stated, owner=f"class {recipe.__name__}")
        except ConfigError as error:
            yield str(error)


def returned(method: Any) -> list[str]:
    """The keys of the dict literals that a method returns; empty if it returns anything else too."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(method))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return []
    found: list[str] = []
    waiting: list[ast.AST] = [] if getattr(tree, "decorator_list", ()) else list(getattr(tree, "body", ()))
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Return):
            keys = node.value.keys if isinstance(node.value, ast.Dict) else [None]
            if not all(isinstance(key, ast.Constant) and isinstance(key.value, str) for key in keys):
                return []
            found += [key.value for key in keys]  # type: ignore[union-attr,misc]
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return list(dict.fromkeys(found))


def _model_problems(own: Mapping[str, Any], composition: Composition, folders: Sequence[Path]) -> Iterator[str]:
    """A recipe says with `model: Callable[..., keras.Model]`, or a tuple of several, which models it can train."""
    recipe, model = own["recipe"], own["model"]
    parameter = inspect.signature(targets.find(recipe["_target_"])).parameters.get("model")
    wanted = targets.annotated(targets.find(recipe["_target_"]), parameter.annotation) if parameter is not None else Any
    # Recipe's own takes a built model too, which a configuration cannot give.
    wanted = next(
        (one for one in typing.get_args(wanted) if typing.get_origin(one) is collections.abc.Callable), wanted
    )
    if typing.get_origin(wanted) is not collections.abc.Callable:
        return
    trains = typing.get_args(wanted)[1]

    def fits(target: Any) -> bool:
        made = targets.find(target)
        made = Any if inspect.isclass(made) else targets.annotated(made, inspect.signature(made).return_annotation)
        return Any in (made, trains) or (typing.get_origin(made) is tuple) == (typing.get_origin(trains) is tuple)

    target = model.get("_target_") if isinstance(model, Mapping) else None
    if target is not None and fits(target):
        return
    chosen = {
        group: option for file in composition.files if file.group == "recipe" for _, group, option in file.defaults()
    }
    own_model = chosen.get("model")  # the one that the recipe's file chooses; others may be for other data
    proposals = [f"model={own_model}"] if own_model else []
    for name, file in paths.find_options("model", folders).items() if not proposals else ():
        with contextlib.suppress(Exception):  # another model's code may be broken
            proposals += (
                [f"model={name}"] if fits(files.read(file, "model", cwd=Path.cwd()).content["_target_"]) else []
            )
    fix = f"Type {' or '.join(proposals) or 'model=NAME'}."
    choice, name = f"model={text(composition.choices.get('model'))}", recipe["_target_"]
    if target is None:
        yield f"{choice}: {name} builds a model, and none is chosen. {fix}"
    else:
        several = typing.get_origin(trains) is tuple
        one, other = ("several models", "one") if several else ("one model", "several")
        yield f"{choice}: {name} trains {one}, and {target} makes {other}. {fix}"
