"""The house itself: no circle between two files, and no kind of data told apart outside its own declaration."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("tokenize_kit", "trainers")
MODALITIES = {"text", "image", "video", "audio"}
HOME = "tokenize_kit/modalities/"
SUBJECTS = ("sample", "reconstruction", "original")


def sources() -> dict[str, Path]:
    """Every file of the packages by the name of its module."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, known: Iterable[str]) -> Iterator[str]:
    """The modules of ``known`` that a file imports, at its top, in functions and for type checking alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports are not used here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield str(node.module)


def graph(trees: Mapping[str, ast.AST]) -> dict[str, set[str]]:
    """What each module imports. Who imports a module from outside of its package imports the package too."""
    edges: dict[str, set[str]] = {}
    for name, tree in trees.items():
        edges[name] = set()
        for target in imported(tree, trees):
            while target and not f"{name}.".startswith(f"{target}."):
                edges[name].add(target)
                target = target.rpartition(".")[0]
    return {name: {target for target in targets if target in trees} for name, targets in edges.items()}


def circles(edges: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Each set of modules that reach one another, sorted."""
    reach = {}
    for start in edges:
        reach[start], waiting = set(), [start]
        while waiting:
            for target in edges[waiting.pop()] - reach[start]:
                reach[start].add(target)
                waiting.append(target)
    found = {
        tuple(sorted({start, *(other for other in reach[start] if start in reach[other])}))
        for start in edges
        if start in reach[start]
    }
    return sorted(found)


def test_no_two_files_import_one_another() -> None:
    edges = graph({name: ast.parse(path.read_text()) for name, path in sources().items()})
    assert len(edges) > 150
    found = set(circles(edges))
    told = "\n".join(
        f"  {name} imports {', '.join(sorted(edges[name] & set(circle)))}"
        for circle in sorted(found)
        for name in circle
    )
    assert not told, f"files that import one another:\n{told}"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"p": "", "p.a": "from p import b", "p.b": "def f():\n    import p.a"}, [("p.a", "p.b")]),
        ({"p": "", "p.a": "if TYPE_CHECKING:\n    from p.b import x", "p.b": "from p.a import y"}, [("p.a", "p.b")]),
        ({"p": "from p.a import x", "p.a": "from p.b import y", "p.b": ""}, []),
        ({"p": "from p.a import x", "p.a": "from p import x"}, []),
        ({"p": "from q.r import x", "p.a": "", "q": "", "q.r": "from p.a import y"}, [("p", "q.r")]),
        ({"a": "import b", "b": "import c", "c": "import a", "d": "import a"}, [("a", "b", "c")]),
    ],
)
def test_circles_are_found(files: dict[str, str], expected: list[tuple[str, ...]]) -> None:
    assert circles(graph({name: ast.parse(text) for name, text in files.items()})) == expected


def named(node: ast.AST) -> bool:
    """Whether an expression is the name of a kind of data, or a tuple, list or set with one in it."""
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(named(item) for item in node.elts)
    return isinstance(node, ast.Constant) and node.value in MODALITIES


def subject(node: ast.AST) -> str:
    """The last name of an expression: ``sample`` of ``item.sample`` and of ``samples[0]``."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def branches(tree: ast.AST) -> list[str]:
    """Every place that asks which kind of data it has, with its line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(map(named, [node.left, *node.comparators])):
            found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.MatchValue) and named(node.value):
            found.append((node.value.lineno, f"case {ast.unparse(node)}"))
        elif isinstance(node, ast.Dict):
            found += [(key.lineno, f"key {ast.unparse(key)}") for key in node.keys if key is not None and named(key)]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "isinstance"
            and len(node.args) == 2
            and any(isinstance(name, ast.Name) and name.id == "str" for name in ast.walk(node.args[1]))
            and any(word in subject(node.args[0]).lower() for word in SUBJECTS)
        ):
            found.append((node.lineno, ast.unparse(node)))
    return [f"line {line}: {text}" for line, text in sorted(found)]


def test_only_a_declaration_tells_its_kind_of_data_apart() -> None:
    found = [
        f"  {name} {place}"
        for path in sources().values()
        if not (name := path.relative_to(ROOT).as_posix()).startswith(HOME)
        for place in branches(ast.parse(path.read_text()))
    ]
    assert not found, "ask the Modality instead of its name:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("spec.modality == 'image'", 1),
        ("'audio' != kind", 1),
        ("kind in ('text', 'other')", 1),
        ("kind not in {'video'}", 1),
        ("match kind:\n    case 'text' | 'image':\n        pass", 2),
        ("{'text': 1, 'other': 2, 'image': 3, **more}", 2),
        ("isinstance(sample, str)", 1),
        ("isinstance(item.reconstruction, (str, bytes))", 1),
        ("isinstance(originals[0], str | bytes)", 1),
        ("isinstance(value, str), isinstance(sample, int), kind == 'texts', TokenSpec('text'), f(text=1)", 0),
    ],
)
def test_branches_are_found(text: str, count: int) -> None:
    assert len(branches(ast.parse(text))) == count
