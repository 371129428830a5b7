"""What a `_target_` names: code in `recipes`, in an installed package, or in a module of the folder of the start.

`refusal` tells what cannot be right before anything is imported, `check` what a signature does not take, and `instantiate`
builds it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from modetrain.errors import ConfigError, closest
from modetrain.files.paths import format_path, recipes_dirs
from modetrain.keys import FREE, KEYS, MISSING
from modetrain.schema import REQUIRED, Key, Value, text
from modetrain.settings import CALLBACKS

PACKAGES = ("recipes", "modetrain", "keras", "tensorflow")
_RUN_COMMANDS = ("pip", "setuptools", "pytest", "IPython", "sh", "invoke", "fabric", "pexpect", "plumbum")
_REFUSED = (
    "{} can run commands, as Python's standard library can, and a config may name nothing of it. Write a function of your own "
    "that calls {}, in a module of this folder, and name that."
)
HYDRA_KEYS = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")
# What app/build.py gives, by section: a config may not give it too.
RUN_GIVES: Mapping[str, tuple[str, ...]] = {
    "recipe": ("model", "optimizer", "info"),
    "model": ("image_shape", "classes"),
    "data": tuple(key.partition(".")[2] for key in KEYS if key.startswith("data.")),  # where its code asks for them
}
# What a recipe and a model may ask for by the names of their parameters, whatever the data.
KNOWN = ("train_examples", "eval_examples", "batch_size", "steps", "seed", "feature_shapes", "image_shape", "classes")


def own(config: Mapping[str, Any]) -> dict[str, Any]:
    """What belongs to the user: recipe, model, the data function and callbacks of their own, by dotted key."""
    callbacks = config.get("callbacks") or {}
    found = {section: config.get(section) for section in FREE}
    data = config.get("data")
    if isinstance(data, Mapping) and "_target_" in data:
        found["data"] = {name: value for name, value in data.items() if f"data.{name}" not in KEYS}
    return found | {f"callbacks.{name}": node for name, node in callbacks.items() if name not in CALLBACKS}


def calls(section: str, node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a `_target_`, inner ones first, with its dotted key."""
    if isinstance(node, list):
        for index, value in enumerate(node):
            yield from calls(f"{section}.{index}", value)
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from calls(f"{section}.{key}", value)
        if "_target_" in node:
            yield section, node


def refusal(target: Any) -> str | None:
    """Why a target cannot be one, as far as its name tells."""
    if not isinstance(target, str) or not target.replace(".", "_").isidentifier() or "." not in target:
        return f"{target!r} is not the dotted path of a class or function, such as recipes.mnist.Digits."
    package, cwd = target.partition(".")[0], Path.cwd()
    if package in PACKAGES or (cwd / package).is_dir() or (cwd / f"{package}.py").is_file():
        return None
    if _may_run_commands(package):
        return _REFUSED.format(package, target)
    if importlib.util.find_spec(package) is not None:
        return None
    fix = "Install it, or type another."
    if any((folder / f"{package}.py").is_file() for folder in recipes_dirs(cwd)):
        fix = f"Did you mean recipes.{target}?"
    return f"there is no package {package} in this environment, nor a module of that name in {cwd}. {fix}"


def _may_run_commands(module: str) -> bool:
    """Whether a module is of Python's standard library, or of a package that is made to run commands."""
    return module.partition(".")[0] in (*sys.stdlib_module_names, *_RUN_COMMANDS)


def find(target: Any) -> Any:
    """Imports what a target names.

    Raises:
      LookupError: it does not exist, or is not one that a config may name; the argument says so in words.
      ConfigError: its file is not Python.
      Exception: whatever its module raises.
    """
    refused = refusal(target)
    if refused is not None:
        raise LookupError(refused)
    parts, end = target.split("."), len(target.split("."))
    module = None
    while module is None and end:
        module = _import(".".join(parts[:end]))
        end -= module is None
    if module is None or (end < len(parts) - 1 and not hasattr(module, parts[end])):
        names = [f"{parts[0]}.{found.name}" for found in pkgutil.iter_modules(getattr(module, "__path__", []))]
        near = closest(".".join(parts[:-1]), names)
        hint = f"Did you mean {near}.{parts[-1]}?" if near else "Type one of them followed by a class of it."
        missing = ".".join(parts[:-1])
        raise LookupError(f"there is no module {missing}; there is {', '.join(names) or 'none'}. {hint}")
    file = format_path(Path(getattr(module, "__file__", None) or module.__name__), Path.cwd())
    defined = [f"{module.__name__}.{name}" for name, value in vars(module).items() if _is_of(value, module.__name__)]
    if end == len(parts):
        raise LookupError(f"that is a module, not a class or function. Type one of {', '.join(defined)}.")
    found, name = module, module.__name__
    for part in parts[end:]:
        if inspect.isfunction(found):
            raise LookupError(f"{name} is a function, it has no {part!r}. Type {name}.")
        if not hasattr(found, part):
            near = closest(part, [one.rpartition(".")[2] for one in defined])
            hint = f"Did you mean {name}.{near}?" if near else f"Type {' or '.join(defined) or 'another'}."
            raise LookupError(f"{file} has no {part!r}. {hint}")
        found, name = getattr(found, part), f"{name}.{part}"
    if _may_run_commands(getattr(found, "__module__", None) or ""):  # reached through a module that imports it
        raise LookupError(_REFUSED.format(found.__module__, target))
    if not callable(found):
        value = repr(found) if len(repr(found)) <= 40 else f"{repr(found)[:37]}..."
        line = f"{file}: {parts[-1]} = {value}"
        raise LookupError(f"that is a plain value ({line}), not a class or function. Type {' or '.join(defined)}.")
    return found


def _import(name: str) -> Any:
    """A module; None where there is none of this name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None
        raise
    except SyntaxError as error:
        file = format_path(Path(error.filename or name), Path.cwd())
        raise ConfigError(f"{file}:{error.lineno}: not Python: {error.msg}. Fix that line, then try again.") from None


def _is_of(value: Any, module: str) -> bool:
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__ == module


# --- what code takes -------------------------------------------------------------------------------------------------


def parameters(call: Any) -> tuple[dict[str, Value | None], bool]:
    """What calling something takes, by name, with what each takes where its annotation tells; and whether it takes any other."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return {}, True
    found: dict[str, Value | None] = {}
    for name, one in signature.parameters.items():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        annotation, default = annotated(call, one.annotation), REQUIRED if one.default is one.empty else one.default
        value = Value(type=annotation, key=Key(lenient=True), default=default)
        if default is None:
            value = Value(type=annotation | None if annotation is not Any else Any, key=value.key, default=None)
        # An annotation that contradicts its own default says nothing.
        found[name] = None if annotation is Any or not (default is REQUIRED or value.accepts(default)) else value
    return found, any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())


def annotated(call: Any, annotation: Any) -> Any:
    """An annotation as a value; Any where there is none, or its names cannot be found."""
    if annotation is inspect.Signature.empty:
        return Any
    function = inspect.unwrap(call.__init__ if inspect.isclass(call) else call)
    for _ in range(2):  # one in quotes is a text in the text
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, dict(getattr(function, "__globals__", {})))
            except Exception:  # a name that only a type checker sees
                return Any
    return Any if isinstance(annotation, str) else annotation


def check(
    section: str,
    node: Any,
    before: Any,
    given: Callable[[str, Any], str],
    served: Collection[str] | None = None,
) -> Iterator[str]:
    """Yields what is wrong with every `_target_` in a section, in words; imports what it names.

    Args:
      section: its dotted key (`recipe`, `callbacks.mine`).
      node: its value.
      before: the same before the values of the command line: their types tell what code without annotations takes.
      given: `given(key, value)` says how a key was given.
      served: the parameters that the run gives by their names; None where that shows only when the data is loaded.
    """
    for inner, call in calls(section, node):
        try:
            yield from _check_call(inner, call, before if inner == section else {}, given, served)
        except LookupError as error:
            yield f"{given(f'{inner}._target_', call['_target_'])}: {error.args[0]}"


def _check_call(
    section: str,
    node: Mapping[str, Any],
    before: Any,
    given: Callable[[str, Any], str],
    served: Collection[str] | None,
) -> Iterator[str]:
    target = node["_target_"]
    takes, is_open = parameters(find(target))
    gives = RUN_GIVES.get(section, ())
    if gives and node.get("_partial_"):
        yield f"{given(f'{section}._partial_', True)}: the run calls {target} with what it needs. Leave _partial_ out."
    for name, value in node.items():
        if name in HYDRA_KEYS:
            continue
        key, seen = f"{section}.{name}", given(f"{section}.{name}", value)
        known = takes.get(name) or _like(before.get(name) if isinstance(before, Mapping) else None)
        if name in gives:
            yield f"{seen}: the run itself gives {target} its {name}. Leave it out."
        elif not is_open and name not in takes:
            names = [one for one in takes if one not in gives]
            near = closest(name, names)
            fix = f"Did you mean {section}.{near}?" if near else f"Leave {key} out."
            has = ", ".join(names) or "nothing from the config"
            yield f"{seen}: {target} has no argument {name!r}, it takes {has}. {fix}"
        elif known is not None and not isinstance(value, Mapping) and not known.accepts(value):
            yield f"{seen}: {known.wrong(key, value)}"
    if section in RUN_GIVES and served is not None and "_args_" not in node and "_partial_" not in node:
        for name, one in inspect.signature(find(target)).parameters.items() if takes else ():
            required = one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
            if required and name not in node and name not in (*gives, *served):
                yield f"{section}.{name} is missing: {target} needs it. Type +{section}.{name}=VALUE."


def _like(before: Any) -> Value | None:
    """What a parameter without an annotation takes: what was there before the command line tells."""
    if isinstance(before, str) and ("${" in before or before == MISSING):
        return None
    kinds = {bool: bool, int: float, float: float, str: str, list: list}  # a default of 0 may well stand for a rate
    kind: Any = kinds.get(type(before))
    return Value(type=kind | None, key=Key(lenient=True), default=before) if kind is not None else None


def instantiate(node: Mapping[str, Any], **kwargs: Any) -> Any:
    """Builds what a config names: imports `_target_` and calls it with the config's arguments and `kwargs`.

    Lists and dicts of the config arrive as such. With `_partial_: true` the call is left to the caller.

    Raises:
      ConfigError: the target cannot be imported, or is not one that a config may name.
      Exception: whatever the target itself raises, as it raised it.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    target = node.get("_target_")
    if target is None:
        raise ConfigError(
            "there is nothing to build: no _target_ is given. If it is the model, type model= with one that --help lists."
        )
    for problem in check("", node, {}, lambda key, value: f"{key.lstrip('.')}={text(value)}"):
        raise ConfigError(problem)
    try:
        # A partial, so that only the config passes through OmegaConf (which would copy models and settings in kwargs),
        # and so that what the target raises is not wrapped.
        built = hydra_instantiate({**node, "_partial_": True}, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, ImportError):
            reason = str(cause or error).strip().splitlines()[0]
            raise ConfigError(f"_target_={target}: {reason}. Name another target.") from error
        cause.add_note(f"while _target_={target} was built from the config")
        raise cause from None
    call = functools.partial(built.func, *built.args, **{**built.keywords, **kwargs})
    return call if node.get("_partial_") else call()
