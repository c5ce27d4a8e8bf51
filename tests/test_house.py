"""The shape of the package, read from its source: who imports whom, and how much there is."""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import skild_phys as sp

PACKAGE = Path(sp.__file__).parent
PLUGINS = Path(__file__).parent / "plugins"

FLOORS = [
    set(names.split())
    for names in (
        "errors files rng errorbars fields executors plugins process kernels",
        "rules models",
        "store",
        "runner",
        "simulation",
        "measurement",
        "skild",
        "methods",
        "images",
        "plots",
        "api",
        "campaign",
        "cli",
    )
]
"""From the ground up. A file imports from the floors below, and from its own folder."""
MANY = {"api.generate", "api.refine", "api.simulate"}
"""Functions with ten parameters or more: plain keywords of the API."""
PUBLIC_NAMES = 460
WALK_FILES, WALK_FUNCTIONS = 23, 180


def modules() -> dict[str, Path]:
    """Return every module of the package by its name without `skild_phys.`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "docs":
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path, anywhere: bool = True) -> Iterator[str]:
    """Yield what a file imports: `a.b` and `a.b.name`; nothing that only a type checker sees.

    Without `anywhere` what functions import when they are called is left out.
    """

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.FunctionDef) and not anywhere:
            return
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{name.name}" for name in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return visit(tree(path))


def room(module: str) -> str:
    return module.split(".")[0]


def imported_modules(path: Path, anywhere: bool = True) -> set[str]:
    """Return the modules of the package that a file imports."""
    known, found = modules(), set()
    for name in imports(path, anywhere):
        if name.startswith("skild_phys."):
            inner = name.removeprefix("skild_phys.")
            found.add(inner if inner in known else inner.rpartition(".")[0])
    return found & known.keys()


def test_no_arrow_runs_up() -> None:
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    unplaced = {room(m) for m in modules()} - floor.keys() - {"", "__main__", "_version"}
    assert not unplaced, "give the room a floor"
    up = [
        f"{module} -> {other}"
        for module, path in modules().items()
        for other in imported_modules(path)
        if room(module) in floor and room(other) in floor and room(module) != room(other)
        if floor[room(other)] >= max(floor[room(module)], 1)
    ]
    assert not up, "a module imports only from floors below its own"


def test_imports_run_in_no_circle() -> None:
    left = {module: imported_modules(path, False) - {module} for module, path in modules().items()}
    # A package is loaded before what lies in it, and what it offers comes from there.
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("click", {"cli"}),
        ("zarr", {"store"}),
        ("rich", {"cli"}),
        ("torch", {"rules", "runner", "skild", "images", "cli"}),
        ("distributed", {"executors"}),
    ],
)
def test_only_some_rooms_know_a_library(library: str, rooms: set[str]) -> None:
    knowing = {
        room(module)
        for module, path in modules().items()
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert knowing <= rooms


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for module, path in modules().items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef):
                yield f"{module}.{node.name}", node


def test_functions_have_few_parameters() -> None:
    many = set()
    for name, node in functions():
        given = [a.arg for a in node.args.posonlyargs + node.args.args + node.args.kwonlyargs]
        if len(given) - (given[:1] in (["self"], ["cls"])) >= 10:
            many.add(name)
    assert many <= MANY, "ten or more: make it a dataclass"


def test_there_are_few_public_names() -> None:
    names = [
        node.name
        for path in modules().values()
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert len(names) <= PUBLIC_NAMES


def test_a_refinement_walks_through_few_rooms() -> None:
    """Of files and of functions, in all threads; what is called once and kept does not count."""
    seen: set[tuple[str, str, int]] = set()

    def hook(frame: object, event: str, arg: object) -> None:
        code = frame.f_code  # type: ignore[attr-defined]
        if event == "call" and code.co_filename.startswith(str(PACKAGE)):
            seen.add((code.co_filename, code.co_qualname, code.co_firstlineno))

    coarse = sp.coarsen((2 * np.random.default_rng(1).integers(0, 2, (2, 16, 16)) - 1), 4)
    sp.refine(coarse, seed=2)
    before = sys.getprofile()
    threading.setprofile(hook)
    sys.setprofile(hook)
    try:
        sp.refine(coarse, seed=2)
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    comprehensions = ("<lambda>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>")
    named = [name for _, name, _ in seen if not name.endswith(comprehensions)]
    assert 0 < len({file for file, *_ in seen}) <= WALK_FILES
    assert 0 < len(named) <= WALK_FUNCTIONS


PLUGIN_FILES = sorted(path.name for path in PLUGINS.glob("*.py"))


@pytest.mark.parametrize("name", PLUGIN_FILES)
def test_what_users_add_is_one_small_file_of_public_names(name: str) -> None:
    text = (PLUGINS / name).read_text()
    assert len(text.splitlines()) <= 60
    used = [i for i in imports(PLUGINS / name) if room(i) == "skild_phys"]
    used += [n.attr for n in ast.walk(tree(PLUGINS / name)) if isinstance(n, ast.Attribute)]
    private = [n for n in used if any(p.startswith("_") and p[-2:] != "__" for p in n.split("."))]
    assert not private
    inside = {i.split(".")[1] for i in used if i.startswith("skild_phys.")} - {*dir(sp)}
    assert inside <= {"errors", "rules", "models", "measurement", "skild", "simulation"}
