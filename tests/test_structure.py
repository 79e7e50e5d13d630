"""The floors of the code base: sizes, folders, arguments, imports. `make structure` runs this file alone."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("common", "client", "server", "simulations", "benchmarks", "locks", "tests")
GENERATED = ("vault_pb2.py", "vault_pb2_grpc.py")
SOURCES = [ROOT / "sotto.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
SOURCES = [path for path in SOURCES if path.name not in GENERATED]
PRODUCT = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "tests"]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}

MOST_LINES = 300
MOST_LINES_OF_A_FUNCTION = 60
MOST_PUBLIC_METHODS = 10
MOST_FILES = 14

Function = ast.FunctionDef | ast.AsyncFunctionDef
Check = Callable[[dict[Path, ast.Module]], list[str]]


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def place(path: Path, node: Function | ast.ClassDef) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def too_long(trees: dict[Path, ast.Module]) -> list[str]:
    return [
        place(path, node)
        for path, tree in trees.items()
        for node in functions(tree)
        if (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]


def too_wide(trees: dict[Path, ast.Module]) -> list[str]:
    """Classes of many public methods. A property counts as an attribute."""
    found = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                methods = [inner for inner in node.body if isinstance(inner, Function)]
                public = [inner for inner in methods if not inner.name.startswith("_")]
                public = [inner for inner in public if "property" not in map(ast.unparse, inner.decorator_list)]
                if len(public) > MOST_PUBLIC_METHODS:
                    found.append(place(path, node))
    return found


def passing_on(trees: dict[Path, ast.Module]) -> list[str]:
    """Functions that take any keyword. One that keeps another's signature by a ParamSpec says which it takes."""
    return [
        place(path, node)
        for path, tree in trees.items()
        for node in functions(tree)
        if node.args.kwarg and ast.unparse(node.args.kwarg.annotation or node.args.kwarg) != "P.kwargs"
    ]


def undocumented(trees: dict[Path, ast.Module]) -> list[str]:
    """Public functions, classes and modules without a docstring."""
    found = []
    for path, tree in trees.items():
        if ast.get_docstring(tree) is None:
            found.append(str(path.relative_to(ROOT)))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        inside = [*tree.body, *(inner for node in classes for inner in node.body)]
        public = [node for node in inside if isinstance(node, Function | ast.ClassDef) and node.name[0] != "_"]
        found += [place(path, node) for node in public if not ast.get_docstring(node)]
    return found


def imports(name: str, tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The modules of ours that a module imports when it is imported itself."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another, and those that need them."""
    left = dict(graph)
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_files_have_300_lines_at_most() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > MOST_LINES} == {}


def test_folders_have_14_files_at_most() -> None:
    kept = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    counted = Counter(path.parent for path in kept if "__pycache__" not in path.parts)
    assert {str(path.relative_to(ROOT)): count for path, count in counted.items() if count > MOST_FILES} == {}


def test_functions_have_60_lines_at_most() -> None:
    assert too_long(TREES) == []


def test_classes_have_ten_public_methods_at_most() -> None:
    assert too_wide(TREES) == []


def test_no_function_takes_any_keyword() -> None:
    assert passing_on({path: TREES[path] for path in PRODUCT}) == []


def test_what_is_public_is_documented() -> None:
    assert undocumented({path: TREES[path] for path in PRODUCT}) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PRODUCT}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    known = set(names.values())
    assert circle({name: set(imports(name, TREES[path], known)) & known for path, name in names.items()}) == []


def test_doctests_show_how_pure_functions_are_used() -> None:
    shown = [line for path in PRODUCT for line in path.read_text(encoding="utf-8").splitlines() if ">>>" in line]
    assert len(shown) >= 40


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (too_long, "def f():\n" + "    pass\n" * 60),
        (too_wide, "class A:\n" + "".join(f"    def f{number}(self): ...\n" for number in range(11))),
        (passing_on, "def f(**values): ..."),
        (undocumented, '"""A module."""\ndef f(): ...'),
    ],
)
def test_each_check_finds_what_it_looks_for(
    check: Callable[[dict[Path, ast.Module]], list[str]], source: str
) -> None:
    assert len(check({ROOT / "made_up.py": ast.parse(source)})) == 1


def test_a_circle_is_found_and_a_chain_is_none() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": set(), "d": {"a", "c"}}) == []
