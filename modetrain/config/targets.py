"""What a `_target_` names: checked without importing it, and later built.

A config may name code in `recipes`, in modetrain, Keras or TensorFlow, or in a module of the folder the run starts in.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modetrain.config.schema import MISSING
from modetrain.config.signatures import ANYTHING, Signature, SourceText
from modetrain.errors import ConfigError, closest
from modetrain.files.paths import shown

FOREIGN = ("keras", "tensorflow")  # never opened: only looked up
HYDRA_KEYS = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")
# What build_recipe.py gives, by section: a config may not give it too.
RUN_GIVES: Mapping[str, tuple[str, ...]] = {
    "recipe": ("model", "optimizer", "info"),
    "model": ("image_shape", "classes"),
}

_PLAIN = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.JoinedStr)  # nothing of these can be called
_TUPLE = ("tuple[", "Tuple[")  # how the annotation of several models begins


def check(section: str, node: Any, sources: SourceText, *, given: Callable[[str, Any], str]) -> Iterator[str]:
    """Yields what is wrong with every `_target_` in a section, in words.

    Args:
      section: its dotted key (`recipe`, `callbacks.mine`).
      node: its value.
      sources: where code is looked up.
      given: `given(key, value)` says how a key was given.
    """
    for inner, call in _calls(section, node):
        yield from _check_call(inner, call, sources, given)


def declared(section: str, node: Any, sources: SourceText) -> set[str]:
    """The keys in a section of which the code that takes them says what they are."""
    found: set[str] = set()
    for inner, call in _calls(section, node):
        keys = _signature(call, sources).keys
        found.update(f"{inner}.{name}" for name in call if name in keys)
    return found


def _calls(section: str, node: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a `_target_`, inner ones first, with its dotted key."""
    if isinstance(node, list):
        for index, value in enumerate(node):
            yield from _calls(f"{section}.{index}", value)
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _calls(f"{section}.{key}", value)
        if "_target_" in node:
            yield section, node


def _check_call(section: str, node: Mapping[str, Any], sources: SourceText, given) -> Iterator[str]:
    target = node["_target_"]
    where = given(f"{section}._target_", target)
    try:
        signature = find(target, sources)
    except LookupError as error:
        yield f"{where}: {error.args[0]}"
        return
    arguments = [key for key in node if key not in HYDRA_KEYS]
    gives = RUN_GIVES.get(section, ())
    if gives and node.get("_partial_"):
        yield f"{given(f'{section}._partial_', True)}: the run calls {target} with what it needs. Leave _partial_ out."
    for name in arguments:
        value = node[name]
        seen = given(f"{section}.{name}", value)
        takes = signature.keys.get(name)
        if name in gives:
            yield f"{seen}: the run itself gives {target} its {name}. Leave it out."
        elif not signature.open and name not in signature.names:
            near = closest(name, [n for n in signature.names if n not in gives])
            names = ", ".join(n for n in signature.names if n not in gives) or "nothing from the config"
            fix = f"Did you mean {section}.{near}?" if near else f"Leave {section}.{name} out."
            yield f"{seen}: {target} has no argument {name!r}, it takes {names}. {fix}"
        elif takes is not None and value != MISSING and not isinstance(value, Mapping) and not takes.accepts(value):
            yield f"{seen}: {takes.wrong(f'{section}.{name}', value)}"
    if section in RUN_GIVES and "_args_" not in node and "_partial_" not in node:
        for name in signature.required:
            if name not in arguments and name not in gives:
                yield f"{section}.{name} is missing: {target} needs it. Type +{section}.{name}=VALUE."


def check_model(
    recipe: Mapping[str, Any], model: Any, choice: str, options: Mapping[str, str], sources: SourceText
) -> Iterator[str]:
    """Yields what is wrong with the model that was chosen for a recipe: it needs one, or one of another kind.

    A recipe says so with `model: Callable[..., keras.Model]`, or a tuple of several; without that all is right.

    Args:
      recipe, model: the two sections of the configuration.
      choice: the choice of a model as it was given, `model=cnn`.
      options: per option of the group the target it names.
      sources: where code is looked up.
    """
    wanted = _signature(recipe, sources).annotations.get("model", "")
    called = re.fullmatch(r"(?:[\w.]+\.)?Callable\[\.\.\., (.*)\]", wanted)
    if called is None:
        return
    several = called[1].startswith(_TUPLE)

    def fits(target: Any) -> bool:
        made = _signature({"_target_": target}, sources).returns
        return "Any" in (made or "Any", called[1]) or made.startswith(_TUPLE) == several

    proposals = " or ".join(f"model={name}" for name, target in options.items() if fits(target)) or "model=NAME"
    name, target = recipe["_target_"], model.get("_target_") if isinstance(model, Mapping) else None
    if target is None:
        yield f"{choice}: {name} builds a model, and none is chosen. Type {proposals}."
    elif not fits(target):
        trains, makes = ("several models", "one") if several else ("one model", "several")
        yield f"{choice}: {name} trains {trains}, and {target} makes {makes}. Type {proposals}."


def _signature(node: Any, sources: SourceText) -> Signature:
    """What the target of a section takes; anything where there is none, which others report."""
    try:
        return find(node.get("_target_"), sources) if isinstance(node, Mapping) else ANYTHING
    except LookupError:
        return ANYTHING


def find(target: Any, sources: SourceText) -> Signature:
    """What a target takes.

    Raises:
      LookupError: it does not exist, or is not one that a config may name; the argument says so in words.
      ConfigError: its file is not Python.
    """
    if not isinstance(target, str) or not target.replace(".", "_").isidentifier() or "." not in target:
        raise LookupError(f"{target!r} is not the dotted path of a class or function, such as recipes.mnist.Digits.")
    parts = target.split(".")
    package = parts[0]
    if package in FOREIGN:
        if importlib.util.find_spec(package) is None:
            raise LookupError(f"the package {package} is not installed. Install it, or name another target.")
        return ANYTHING
    if not sources.folders(package) and sources.file(package) is None:
        allowed = ", ".join(f"{name}.*" for name in ("recipes", "modetrain", *FOREIGN))
        raise LookupError(
            f"a config may name code in {allowed} or in a module of {sources.cwd}, and there is no {package} there. "
            + (f"Did you mean recipes.{target}?" if sources.file(f"recipes.{package}") else "Type one from these.")
        )
    if sources.file(target) is not None:
        names = ", ".join(f"{target}.{name}" for name in sources.names(target))
        raise LookupError(f"that is a module, not a class or function. Type one of {names or 'the names in it'}.")
    for end in range(len(parts) - 1, 0, -1):
        module, rest = ".".join(parts[:end]), parts[end:]
        file = sources.file(module)
        if file is not None:
            return _within(module, rest, file, sources)
    modules = sources.modules(package)
    module = ".".join(parts[:-1])
    near = closest(module, modules)
    hint = f"Did you mean {near}.{parts[-1]}?" if near else "Type one of them followed by a class of it."
    raise LookupError(f"there is no module {module}; there is {', '.join(modules) or 'none'}. {hint}")


def _within(module: str, names: Sequence[str], file: Path, sources: SourceText) -> Signature:
    try:
        found = sources.definition(module, names[0])
    except KeyError:
        defined = sources.names(module)
        near = closest(names[0], defined)
        hint = f"Did you mean {module}.{near}?" if near else f"It has {', '.join(defined) or 'no class or function'}."
        fix = hint if near or not defined else f"{hint} Type {module}.{defined[0]}."
        raise LookupError(f"{shown(file, sources.cwd)} has no {names[0]!r}. {fix}") from None
    if found is None:
        value = sources.alias(module, names[0])
        if len(names) == 1 and value is not None and isinstance(value[1], _PLAIN):
            defined = sources.names(module)
            fix = (
                f"Type {module}.{defined[0]}." if len(defined) == 1 else f"Name one of {', '.join(defined) or 'these'}."
            )
            line = f"{shown(file, sources.cwd)}: {names[0]} = {_short(value[1])}"
            raise LookupError(f"that is a plain value ({line}), not a class or function. {fix}")
        return ANYTHING
    if len(names) > 1 and not isinstance(found[1], ast.ClassDef):
        raise LookupError(f"{module}.{names[0]} is a function, it has no {names[1]!r}. Type {module}.{names[0]}.")
    if len(names) > 2:
        return ANYTHING
    if len(names) == 2:
        inner = [s for s in getattr(found[1], "body", ()) if isinstance(s, ast.FunctionDef) and s.name == names[1]]
        return sources.of_function(module, inner[0], bound=True) if inner else ANYTHING
    return sources.signature(*found)


def _short(value: ast.expr) -> str:
    written = ast.unparse(value)
    return written if len(written) <= 40 else f"{written[:37]}..."


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
    for problem in check("", node, SourceText(Path.cwd()), given=lambda key, value: f"{key.lstrip('.')}={value}"):
        raise ConfigError(problem)
    _import(target)
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


def _import(target: Any) -> None:
    """Imports the module of a target of the user's own, so that a mistake in it shows as itself, with its line."""
    parts = str(target).split(".")
    sources = SourceText(Path.cwd())
    for end in range(len(parts) - 1, 0, -1):
        if parts[0] not in FOREIGN and sources.file(".".join(parts[:end])) is not None:
            importlib.import_module(".".join(parts[:end]))
            return
