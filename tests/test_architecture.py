"""The house rules that a machine can check: imports go one way, rooms know their own, files stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mktopt"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 400

# What a room may import of this package besides itself. What is not listed is the front: it may import all.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "networks": {"errors"},
    "solvers": {"errors"},
    "formulations": {"networks", "errors"},
    "clearing": {"networks", "formulations", "solvers", "errors"},
    "agents": {"clearing", "networks", "formulations", "solvers", "errors"},
}
# Libraries that only some rooms may import; the front counts as a room named "".
ONLY_IN: dict[str, set[str]] = {
    "casadi": {"solvers"},
    "clarabel": {"solvers"},
    "cyipopt": {"solvers"},
    "highspy": {"solvers"},
    "typer": {""},
}
NOT_IN: dict[str, set[str]] = {"pyomo": {"networks"}}


def dotted(path: Path) -> str:
    """Dotted name of the module in `path`: mktopt/networks/__init__.py is mktopt.networks."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The room of a module: mktopt.networks.orders stands in networks, mktopt.cli in the front ("")."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else ""


def imported(source: str, module: str, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of all that a module imports, also inside functions and by import_module.

    `from mktopt import networks` gives "mktopt": the name asked for is an attribute of the top package.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*up, base] if base else up)
            yield node.lineno, base
            # `from mktopt.networks import orders` names a module; so does `from . import orders`.
            if base != "mktopt":
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from ((node.lineno, a.value) for a in node.args[:1]
                        if isinstance(a, ast.Constant) and isinstance(a.value, str))  # fmt: skip


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What in a module's imports breaks the rules above, one sentence each."""
    here, found = room(module), []
    for line, name in sorted(set(imported(source, module, is_package))):
        top, target = name.split(".")[0], room(name)
        where = f"{module}:{line} imports {name}"
        if name == "mktopt" and module != "mktopt":
            found.append(f"{where}: nothing inside imports the top package")
        elif top == "mktopt" and here and target not in MAY_IMPORT[here] | {here}:
            found.append(f"{where}: {here} may import only {sorted(MAY_IMPORT[here]) or 'nothing'} of mktopt")
        if here not in ONLY_IN.get(top, {here}):
            found.append(f"{where}: only {sorted(ONLY_IN[top])} may")
        if here in NOT_IN.get(top, set()):
            found.append(f"{where}: {here} must not know {top}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_go_one_way(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert violations(source, dotted(path), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_every_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{path} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{path} has {lines} lines; divide it where its subject divides"


@pytest.mark.parametrize("name", ["networks", "solvers", "formulations", "formulations.flows", "clearing"])
def test_the_rooms_exist(name: str) -> None:
    assert f"mktopt.{name}" in {dotted(path) for path in MODULES}


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("mktopt.networks.orders", "import pyomo.environ as pyo", "must not know pyomo"),
        ("mktopt.networks.orders", "def f():\n    from mktopt.solvers import x", "networks may import only"),
        ("mktopt.networks.orders", "from ..clearing import result", "networks may import only"),
        ("mktopt.networks.orders", "from .. import errors", "imports the top package"),
        ("mktopt.networks.orders", "from mktopt.cli import main", "networks may import only"),
        ("mktopt.solvers.program", "from mktopt.networks.network import Network", "solvers may import only"),
        ("mktopt.formulations.surplus", "import highspy", "only ['solvers'] may"),
        ("mktopt.formulations.surplus", "from mktopt.clearing import result", "formulations may import only"),
        ("mktopt.clearing.result", "import mktopt", "imports the top package"),
        ("mktopt.clearing.result", "from mktopt import Network", "imports the top package"),
        ("mktopt.clearing.result", "from mktopt.mechanisms import MECHANISMS", "clearing may import only"),
        ("mktopt.clearing.result", "importlib.import_module('mktopt.cli')", "clearing may import only"),
        ("mktopt.plots", "from mktopt import clear", "imports the top package"),
        ("mktopt.plots", "import clarabel", "only ['solvers'] may"),
        ("mktopt.errors", "from mktopt.networks import units", "errors may import only nothing"),
    ],
)
def test_the_check_sees_a_violation(module: str, source: str, reason: str) -> None:
    assert any(reason in found for found in violations(source, module)), violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mktopt.networks.orders", "from mktopt.networks.network import Network\nfrom . import units"),
        ("mktopt.formulations.surplus", "import pyomo.environ\nfrom mktopt.networks.orders import Orders"),
        ("mktopt.solvers.highs", "import highspy\nfrom mktopt.errors import SolverError"),
        ("mktopt.mechanisms", "from mktopt.solvers import SOLVERS\nfrom mktopt.clearing import result"),
    ],
)
def test_the_check_lets_pass_what_is_allowed(module: str, source: str) -> None:
    assert violations(source, module) == []
