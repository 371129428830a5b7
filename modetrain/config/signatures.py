"""What the user's code takes, read from its source text: nothing is imported.

Importing a recipe would import TensorFlow; parsing it tells a misspelt class or argument in milliseconds. Where the
text does not settle what a call takes (an unknown decorator, a base class out of sight) anything is taken to be right.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from modetrain.config.annotations import key_of
from modetrain.config.key import Key
from modetrain.errors import ConfigError
from modetrain.files.paths import recipes_dirs, shown

# Decorators that leave a signature as it is; any other may change it.
KEEPS_SIGNATURE = (
    "staticmethod",
    "classmethod",
    "cache",
    "lru_cache",
    "register_keras_serializable",
    "final",
    "override",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """What something takes.

    Attributes:
      names: its arguments by name.
      required: those without a default.
      keys: what an argument takes, where its annotation says so.
      annotations: the text of each argument's annotation.
      returns: the text of the annotation of what is returned.
      open: whether it takes any other argument too.
    """

    names: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    keys: Mapping[str, Key] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    returns: str = ""
    open: bool = False


ANYTHING = Signature(open=True)


class SourceText:
    """Source text by module name: the `recipes` folders, the user's own modules, and modetrain itself."""

    def __init__(self, cwd: Path):
        self.cwd = cwd
        self._trees: dict[Path, ast.Module] = {}

    def folders(self, package: str) -> list[Path]:
        """Where the modules of a top-level package lie; empty if it is not one that a config may name."""
        if package == "recipes":
            return recipes_dirs(self.cwd)
        if package == "modetrain":
            return [Path(__file__).resolve().parents[1]]
        return [self.cwd / package] if (self.cwd / package).is_dir() else []

    def file(self, module: str) -> Path | None:
        """The file of a module, or None."""
        package, *rest = module.split(".")
        if not rest and package not in ("recipes", "modetrain") and (self.cwd / f"{package}.py").is_file():
            return self.cwd / f"{package}.py"
        for folder in self.folders(package):
            for file in (folder.joinpath(*rest, "__init__.py"), folder.joinpath(*rest).with_suffix(".py")):
                if file.is_file() and (rest or file.name == "__init__.py"):
                    return file
        return None

    def modules(self, package: str) -> list[str]:
        """The modules of a package, for proposals."""
        files = (file for folder in self.folders(package) for file in folder.glob("*.py"))
        return sorted({f"{package}.{file.stem}" for file in files if file.stem != "__init__"})

    def tree(self, file: Path) -> ast.Module:
        """The parsed source of a file.

        Raises:
          ConfigError: it is not Python.
        """
        if file not in self._trees:
            try:
                self._trees[file] = ast.parse(file.read_bytes(), str(file))
            except (SyntaxError, ValueError) as error:
                line = getattr(error, "lineno", None) or 1
                raise ConfigError(
                    f"{shown(file, self.cwd)}:{line}: not Python: {getattr(error, 'msg', error)}. Mend that line, then "
                    "try again."
                ) from None
        return self._trees[file]

    def definition(self, module: str, name: str, depth: int = 0) -> tuple[str, ast.stmt] | None:
        """Where a name of a module is defined, imports followed: (module, statement); None if that cannot be told.

        Raises:
          KeyError: the module certainly has no such name.
        """
        file = self.file(module)
        if file is None or depth > 10:
            return None
        loose = False
        for statement in _statements(self.tree(file).body):
            if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                if statement.name == name:
                    return module, statement
                loose = loose or statement.name == "__getattr__"
            elif isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    loose = loose or alias.name == "*"
                    if (alias.asname or alias.name) == name:
                        source = _absolute(module, statement, file.name == "__init__.py")
                        return None if source is None else self.definition(source, alias.name, depth + 1)
            elif isinstance(statement, ast.Import):
                if any((alias.asname or alias.name.partition(".")[0]) == name for alias in statement.names):
                    return None
            elif name in assigned(statement):
                return None
        if loose:
            return None
        raise KeyError(name)

    def names(self, module: str) -> list[str]:
        """The classes and functions a module defines."""
        file = self.file(module)
        body = self.tree(file).body if file else []
        return [statement.name for statement in body if isinstance(statement, ast.ClassDef | ast.FunctionDef)]

    def signature(self, module: str, statement: ast.stmt) -> Signature:
        """What calling a class or function takes."""
        if isinstance(statement, ast.FunctionDef):
            return self.of_function(module, statement, bound=False)
        if not isinstance(statement, ast.ClassDef) or statement.keywords:
            return ANYTHING
        decorators = [last_name(d) for d in statement.decorator_list]
        if "dataclass" in decorators:
            return self._of_dataclass(module, statement)
        if any(name not in KEEPS_SIGNATURE for name in decorators):
            return ANYTHING
        for inner in statement.body:
            if isinstance(inner, ast.FunctionDef) and inner.name in ("__init__", "__new__"):
                return self.of_function(module, inner, bound=True)
        for base in statement.bases:
            found = self.base(module, base)
            if found is None:
                return ANYTHING
            signature = self.signature(*found)
            if signature.names or signature.open:
                return signature
        return Signature()

    def _of_dataclass(self, module: str, statement: ast.ClassDef) -> Signature:
        names: list[str] = []
        required: list[str] = []
        keys: dict[str, Key] = {}
        for base in statement.bases:
            found = self.base(module, base)
            inherited = self.signature(*found) if found else ANYTHING
            if inherited.open:
                return ANYTHING
            names += inherited.names
            required += inherited.required
            keys |= inherited.keys
        for inner in statement.body:
            if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                name = inner.target.id
                names.append(name)
                if inner.value is None:
                    required.append(name)
                keys.pop(name, None)
                if key := key_of(inner.annotation, inner.value, module, self):
                    keys[name] = key
        return Signature(names=tuple(names), required=tuple(required), keys=keys)

    def of_function(self, module: str, function: ast.FunctionDef, *, bound: bool) -> Signature:
        """What calling a function takes; `bound`: its first argument is given already."""
        if any(last_name(d) not in KEEPS_SIGNATURE for d in function.decorator_list):
            return ANYTHING
        arguments = function.args
        static = any(last_name(d) == "staticmethod" for d in function.decorator_list)
        positional = [*arguments.posonlyargs, *arguments.args]
        missing = len(positional) - len(arguments.defaults)
        defaults = [*[None] * missing, *arguments.defaults, *arguments.kw_defaults]
        taken = list(zip([*positional, *arguments.kwonlyargs], defaults, strict=True))[
            1 if bound and not static else 0 :
        ]
        keys = {argument.arg: key_of(argument.annotation, default, module, self) for argument, default in taken}
        return Signature(
            names=tuple(argument.arg for argument, _ in taken),
            required=tuple(argument.arg for argument, default in taken if default is None),
            keys={name: key for name, key in keys.items() if key is not None},
            annotations={a.arg: ast.unparse(a.annotation) for a, _ in taken if a.annotation is not None},
            returns=ast.unparse(function.returns) if function.returns is not None else "",
            open=arguments.kwarg is not None,
        )

    def alias(self, module: str, name: str, depth: int = 0) -> tuple[str, ast.expr] | None:
        """What a name of a module is assigned, imports followed: (module, expression); None if that cannot be told."""
        file = self.file(module)
        if file is None or depth > 10:
            return None
        found: list[tuple[str, ast.expr] | None] = []
        for statement in _statements(self.tree(file).body):
            if isinstance(statement, ast.ImportFrom) and any((a.asname or a.name) == name for a in statement.names):
                source = _absolute(module, statement, file.name == "__init__.py")
                original = next(a.name for a in statement.names if (a.asname or a.name) == name)
                found.append(self.alias(source, original, depth + 1) if source else None)
            elif name in assigned(statement):
                value = getattr(statement, "value", None)
                found.append((module, value) if isinstance(value, ast.expr) else None)
        return found[0] if len(found) == 1 else None

    def is_ours(self, module: str, name: str) -> bool:
        """Whether a name of a module is imported from modetrain."""
        try:
            found = self.definition(module, name)
        except KeyError:
            return False
        return found is not None and found[0].partition(".")[0] == "modetrain"

    def base(self, module: str, base: ast.expr) -> tuple[str, ast.stmt] | None:
        """Where a base class of a class in this module is defined; None if that cannot be told."""
        try:
            if isinstance(base, ast.Name):
                return self.definition(module, base.id)
            if isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name) and base.value.id == "modetrain":
                return self.definition("modetrain", base.attr)
        except KeyError:
            return None
        return None


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those inside if, try and with too."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, field, ()))
            for handler in getattr(statement, "handlers", ()):
                yield from _statements(handler.body)


def assigned(statement: ast.stmt) -> set[str]:
    """The names that an assignment sets; none for other statements."""
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    return {node.id for t in targets if t is not None for node in ast.walk(t) if isinstance(node, ast.Name)}


def _absolute(module: str, statement: ast.ImportFrom, is_package: bool) -> str | None:
    if statement.level == 0:
        return statement.module
    parts = module.split(".") if is_package else module.split(".")[:-1]
    parts = parts[: len(parts) - (statement.level - 1)]
    return ".".join([*parts, *([statement.module] if statement.module else [])]) or None


def last_name(node: ast.expr) -> str:
    """The name of a decorator, without what it is called with and the module it is of."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
