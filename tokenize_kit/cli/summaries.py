"""The summary of a trainer as its source says it, without running that: the list of commands shall not wait for imports.

To parse the modules of our trainers takes a quarter of the time that it takes to run them, and one that imports torch would
take seconds.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

N = TypeVar("N", ast.FunctionDef, ast.ClassDef)


def summary_in_source(target: str) -> str | None:
    """Return the ``summary`` of the options that a function takes; None where the source does not say it in so many words.

    Args:
        target: ``module:function``; the first parameter is annotated with the name of the options class, which is defined in the
            same module or imported by name from another.
    """
    module, _, name = target.partition(":")
    tree = _tree(module)
    if tree is None:
        return None
    function = _defined(tree, name, ast.FunctionDef)
    if function is None or not function.args.args:
        return None
    annotation = function.args.args[0].annotation
    return _summary_of(tree, annotation.id) if isinstance(annotation, ast.Name) else None


def _summary_of(tree: ast.Module, name: str) -> str | None:
    """Return the summary of a class that a module defines or imports."""
    found = _defined(tree, name, ast.ClassDef)
    if found is None:
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    if (alias.asname or alias.name) == name and (other := _tree(node.module)) is not None:
                        return _summary_of(other, alias.name)
        return None
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "summary":
            value = node.value
            return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return None


def _defined(tree: ast.Module, name: str, kind: type[N]) -> N | None:
    return next((node for node in tree.body if isinstance(node, kind) and node.name == name), None)


def _tree(module: str) -> ast.Module | None:
    """Parse the source of a module, if it has one; the packages that it is in are imported."""
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return ast.parse(Path(spec.origin).read_bytes())
