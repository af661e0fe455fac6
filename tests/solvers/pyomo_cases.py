"""Pyomo's own solver test cases, as the installed package ships them, for the solvers that mktopt registers.

Which solvers Pyomo tests is written in lists at the top of its test module, from which the cases are generated while
the module is imported. Here the module's syntax tree is taken, those lists are given other values, and the result is
run under another name. Nothing of Pyomo is copied or changed.
"""

from __future__ import annotations

import ast
import importlib.util
import types
import unittest
from pathlib import Path
from typing import Any

import pyomo.environ as pyo

SOLVERS = "pyomo.contrib.solver.tests.solvers.test_solvers"
HIGHS = "pyomo.contrib.solver.tests.solvers.test_highs"
Lists = dict[str, list[tuple[str, Any]]]


def load(name: str, lists: Lists | None = None, literal: list[tuple[str, Any]] | None = None) -> types.ModuleType:
    """One of Pyomo's test modules, with other lists of solvers.

    lists: by the name of the list in the module, which must exist there (`dual_solvers` is not in Pyomo 6.10.0);
    literal: what stands for the lists that a case writes out itself instead (HiGHS alone).
    """
    lists = lists or {}
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), spec.origin)
    swap = _Lists(set(lists))
    tree = ast.fix_missing_locations(swap.visit(tree))
    missing = set(lists) - swap.found - {"dual_solvers"}
    assert not missing, f"Pyomo's test module has no lists {missing} any more"
    module = types.ModuleType(f"{name.rpartition('.')[2]}_for_mktopt")
    module.__dict__.update(__file__=spec.origin, _given=lists, _literal=literal)
    exec(compile(tree, spec.origin, "exec"), module.__dict__)
    # Its legacy cases ask for the solver under a name that Pyomo gives to its own solvers alone.
    module.pyo = types.SimpleNamespace(**vars(pyo))
    module.pyo.SolverFactory = lambda name: pyo.SolverFactory(name.removesuffix("_v2"))
    return module


def cases(module: types.ModuleType) -> dict[str, tuple[type[unittest.TestCase], str]]:
    """(class, method) of every generated case, by "Class::method"."""
    found = {}
    for name, item in vars(module).items():
        if isinstance(item, type) and issubclass(item, unittest.TestCase) and item.__module__ == module.__name__:
            for method in unittest.TestLoader().getTestCaseNames(item):
                found[f"{name}::{method}"] = (item, method)
    return found


class _Lists(ast.NodeTransformer):
    """Gives the module's lists of solvers other values."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.found: set[str] = set()

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in self.names:
            self.found.add(target.id)
            node.value = ast.parse(f"_given[{target.id!r}]", mode="eval").body
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        if node.name == "mark_parameterized":  # parameterized, with a mark that a pytest without Pyomo's does not know
            return ast.parse("mark_parameterized = parameterized").body[0]
        node.decorator_list = [item for item in node.decorator_list if "pytest.mark" not in ast.unparse(item)]
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = [_Literals().visit(item) for item in node.decorator_list]
        return node


class _Literals(ast.NodeTransformer):
    """Gives a list of solvers that a decorator writes out another value."""

    def visit_List(self, node: ast.List) -> ast.AST:
        return ast.parse("_literal", mode="eval").body if node.elts else node
