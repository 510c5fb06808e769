"""A digest of the code that a build step runs: the functions and classes that it reaches, in all modules.

Imports are followed from the step's functions name by name: `from endcap_server.shop.words import stem` reaches `stem`
and what `stem` uses, not the rest of that module. Comments, docstrings, layout and help texts of settings do not count.
A module that is imported as a whole (`import module`) counts as a whole. A data file beside a module counts if a string
names it. Names that are computed at run time (`getattr`, `import_module`) are not followed.
"""

import ast
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("endcap_builders", "endcap_server", "endcap_kernels")
_SEPARATE = ("endcap_builders.pipeline", "endcap_builders.build_folder", "endcap_builders.catalogue.read")
"""Modules that are not followed: they do not change results, or changes show in what steps read."""
_HELP = {"Field": "description", "Step": "help"}
_WHOLE = "*"


def code_digest(*entries: Callable[..., Any], packages: tuple[str, ...] = PACKAGES) -> str:
    """Hash of the code that functions or classes reach, 16 hexadecimal digits.

    Args:
        entries: functions, methods or classes.
        packages: names of the packages whose imports are followed.
    """
    roots = {package: folder for package in packages if (folder := _root(package)) is not None}
    waiting = []
    for entry in entries:
        file = getattr(sys.modules.get(entry.__module__), "__file__", None)
        if file is not None:
            waiting.append((Path(file), entry.__qualname__.split(".")[0]))
    seen: dict[tuple[Path, str], str] = {}
    while waiting:
        path, name = waiting.pop()
        if (path, name) in seen:
            continue
        module = _parse(path, path.stat().st_mtime_ns)
        if name != _WHOLE and name not in module.parts:
            # A name that the module imports, or does not have.
            seen[path, name] = ""
            waiting += _followed(module.imports.get(name, ()), roots)
            continue
        part = module.whole() if name == _WHOLE else module.parts[name]
        seen[path, name] = part.digest
        waiting += [(path, other) for other in part.names if other in module.parts or other in module.imports]
        waiting += _followed(part.imports, roots)
        for data in part.data:
            seen.setdefault((path.parent / data, ""), _file_digest(path.parent / data))
    # Without paths, which differ between checkouts and installed packages.
    lines = sorted(f"{path.parent.name}/{path.name} {name} {digest}" for (path, name), digest in seen.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


Import = tuple[str, str]
"""A module and a name in it; `*` is the whole module, and a name can be a module, too."""


@dataclass
class _Part:
    """A top-level definition: its digest, names it uses, imports inside it, files beside the module that it names."""

    digest: str
    names: frozenset[str]
    imports: tuple[Import, ...]
    data: tuple[str, ...]


@dataclass
class _Module:
    """A parsed module: its top-level parts by name, and the targets of imported names."""

    parts: dict[str, _Part] = field(default_factory=dict)
    imports: dict[str, tuple[Import, ...]] = field(default_factory=dict)

    def whole(self) -> _Part:
        """All parts as one."""
        digests = " ".join(f"{name}={part.digest}" for name, part in sorted(self.parts.items()))
        return _Part(digests, frozenset(self.parts) | frozenset(self.imports), (), ())


@lru_cache(maxsize=4096)
def _parse(path: Path, modified_ns: int) -> _Module:
    """Parse a file; the modification time in the key detects edits."""
    tree = _Normal().visit(ast.parse(path.read_bytes()))
    module = _Module()
    bodies: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for name, found in _imports(statement):
                module.imports[name] = (*module.imports.get(name, ()), found)
            continue
        for name in _defined(statement):
            bodies.setdefault(name, []).append(statement)
    module.parts = {name: _part(body, path.parent) for name, body in bodies.items()}
    return module


def _part(body: list[ast.stmt], folder: Path) -> _Part:
    names, imports, data = set[str](), list[Import](), set[str]()
    for node in (node for statement in body for node in ast.walk(statement)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports += [found for _, found in _imports(node)]
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _names_a_file(folder, node.value):
            data.add(node.value)
    dump = "\n".join(ast.dump(statement) for statement in body)
    return _Part(_hash(dump), frozenset(names), tuple(imports), tuple(sorted(data)))


class _Normal(ast.NodeTransformer):
    """Removes what does not change results: docstrings, and help texts of settings and steps."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop docstrings, of attributes too."""
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            # A body needs at least one statement.
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Drop help texts."""
        help_name = _HELP.get(node.func.id) if isinstance(node.func, ast.Name) else None
        node.keywords = [each for each in node.keywords if each.arg is None or each.arg != help_name]
        return self.generic_visit(node)


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Import]]:
    """Names that an import binds, and their targets."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.split(".")[0], (alias.name, _WHOLE)
    elif node.module and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, (node.module, alias.name)


def _defined(statement: ast.stmt) -> list[str]:
    """Names that a top-level statement defines; a statement without names is the part ``""`` of the module."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    names = [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return names or ([] if isinstance(statement, ast.Pass) else [""])


def _followed(imports: tuple[Import, ...], roots: dict[str, Path]) -> Iterator[tuple[Path, str]]:
    """Files and names in the followed packages that imports reach."""
    for module, name in imports:
        root = roots.get(module.split(".")[0])
        if root is None or module in _SEPARATE:
            continue
        place = root.joinpath(*module.split(".")[1:])
        inner = f"{module}.{name}"
        if name != _WHOLE and inner not in _SEPARATE and (below := _file(place / name)) is not None:
            yield below, _WHOLE
        elif inner not in _SEPARATE and (path := _file(place)) is not None:
            yield path, name


def _file(place: Path) -> Path | None:
    """The file of a module."""
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _names_a_file(folder: Path, text: str) -> bool:
    return "." in text and len(text) < 100 and "/" not in text and "\n" not in text and (folder / text).is_file()


def _root(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
