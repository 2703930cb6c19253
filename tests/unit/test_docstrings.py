"""Docstrings of ltxcore's public functions: there, with the shapes of tensors, and with what is raised."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2] / "ltxcore"
TENSORS = re.compile(r"\b(torch\.Tensor|Tensor|ndarray|NDArray)\b")
SHAPE = re.compile(r"\[[^\[\]]*\]|\bany shape\b|\bscalar")
"""A shape in brackets, or the word that there is none to name."""


class Public(NamedTuple):
    """A function or method that other modules may call."""

    place: str
    node: ast.FunctionDef
    doc: str


def public_functions(tree: ast.Module, file: str) -> Iterator[Public]:
    """Functions of a module and methods of its classes, without those that a base class describes already."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield from _public(node, file)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            inherited = set().union(*(described()[base] for base in ancestors(node.name)))
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name not in inherited:
                    yield from _public(method, f"{file}: {node.name}")


def _public(node: ast.FunctionDef, where: str) -> Iterator[Public]:
    overload = any("overload" in ast.unparse(decorator) for decorator in node.decorator_list)
    if not node.name.startswith("_") and not overload:
        yield Public(f"{where}.{node.name}", node, ast.get_docstring(node) or "")


def takes_tensors(node: ast.FunctionDef) -> bool:
    """Whether its signature names an array or a tensor."""
    annotations = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)]
    return any(
        TENSORS.search(ast.unparse(annotation))
        for annotation in (*annotations, node.returns)
        if annotation is not None
    )


def raised(node: ast.FunctionDef) -> set[str]:
    """The errors of this project that its own body raises, outside of functions within it."""
    found: set[str] = set()
    for child in own_nodes(node):
        if isinstance(child, ast.Raise) and child.exc is not None:
            error = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            name = ast.unparse(error).rpartition(".")[2]
            if name in project_errors():
                found.add(name)
    return found


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions that it defines."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield child
            yield from own_nodes(child)


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of ltxcore by its path."""
    return {
        path.relative_to(ROOT.parent).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(ROOT.rglob("*.py"))
    }


@cache
def described() -> dict[str, set[str]]:
    """The methods that have a docstring, by the name of their class."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for tree in modules().values():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                methods = (method for method in node.body if isinstance(method, ast.FunctionDef))
                found[node.name] |= {method.name for method in methods if ast.get_docstring(method)}
    return found


def ancestors(name: str) -> set[str]:
    """The classes of ltxcore above one, over any number of steps."""
    above: set[str] = set()
    for base in bases().get(name, set()) & described().keys():
        above |= {base} | ancestors(base)
    return above


@cache
def bases() -> dict[str, set[str]]:
    """The bases of every class, by its name."""
    return {
        node.name: {_last(base) for base in node.bases}
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }


def _last(expression: ast.expr) -> str:
    """The name of a class, without its module and type arguments."""
    return ast.unparse(expression).partition("[")[0].rpartition(".")[2]


@cache
def project_errors() -> set[str]:
    """Names of the exceptions that ltxcore defines."""
    found: set[str] = set()
    while True:
        more = {
            name
            for name, own in bases().items()
            if name not in found
            and any(base in found or base.endswith(("Error", "Exception")) for base in own)
        }
        if not more:
            return found
        found |= more


@cache
def functions() -> tuple[Public, ...]:
    """Every public function of ltxcore."""
    return tuple(public for file, tree in modules().items() for public in public_functions(tree, file))


def test_every_public_function_says_what_it_does() -> None:
    assert [public.place for public in functions() if not public.doc] == []


def test_functions_of_tensors_name_shapes() -> None:
    bare = [p.place for p in functions() if takes_tensors(p.node) and not SHAPE.search(p.doc)]
    assert bare == []


def test_errors_of_the_project_are_named() -> None:
    silent = {
        public.place: missing
        for public in functions()
        if (missing := {name for name in raised(public.node) if name not in public.doc})
        or (raised(public.node) and "Raises:" not in public.doc)
    }
    assert silent == {}
