"""The wheel, installed elsewhere, has all that a user needs: code, types, and the tables of every case."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]

# sys.argv[1] is the folder of the installed wheel. Every other copy of the package is taken off the path (the
# editable install, the current folder), so that only the wheel's own files can answer.
PROBE = """
import json, sys
from pathlib import Path
target = Path(sys.argv[1]).resolve()
others = [path for path in sys.path if not (Path(path or ".") / "mktopt").exists()]
sys.path[:] = [str(target), *others]
import importlib.metadata, mktopt
from mktopt.networks.cases import case_names, load_case
names = [name if "N:seed" not in name else name.replace("N:seed", "50:1") for name in case_names()]
cases = {}
for name in names:
    case = load_case(name)
    network = case.network
    cases[name] = [len(network.buses), len(network.branches), len(case.orders.orders) if case.orders else 0]
distribution = importlib.metadata.distribution("mktopt")
print(json.dumps({
    "file": mktopt.__file__,
    "says": mktopt.__version__,
    "version": distribution.version,
    "scripts": {e.name: e.value for e in distribution.entry_points if e.group == "console_scripts"},
    "cases": cases,
}))
"""


def run(command: list[str], cwd: Path) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as pip builds it, by the build backend of this environment where it has one."""
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    run([*PIP, "wheel", "--quiet", "--no-deps", *isolation, "--wheel-dir", str(folder), str(ROOT)], folder)
    (built,) = folder.glob("mktopt-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the installed wheel says of itself in a process that knows no other copy of the package."""
    target = tmp_path_factory.mktemp("site")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    offline = ["--no-deps", "--no-index"]
    run([*PIP, "install", "--quiet", *offline, "--target", str(target), str(wheel)], elsewhere)
    report = json.loads(run([sys.executable, "-c", PROBE, str(target)], elsewhere).splitlines()[-1])
    assert isinstance(report, dict)
    return report | {"target": target}


def test_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "mktopt").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert sorted(here - packed) == []
    assert "mktopt/py.typed" in packed
    assert any(name.startswith("mktopt/networks/data/") and name.endswith(".csv") for name in packed)
    assert not [name for name in packed if name.startswith(("tests/", "benchmarks/", "out/"))]


def test_wheel_carries_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
        assert "Redistribution and use in source and binary forms" in archive.read(licence).decode()


def test_installed_wheel_is_what_is_imported(installed: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert Path(installed["file"]).is_relative_to(Path(installed["target"]).resolve())
    assert installed["version"] == installed["says"] == project["version"]
    assert installed["scripts"] == project["scripts"]
    assert (Path(installed["target"]) / "mktopt" / "py.typed").is_file()


def test_installed_wheel_loads_every_named_case(installed: dict[str, Any]) -> None:
    assert {"ieee13", "ieee34", "ieee123", "eulv", "case33bw", "case300"} <= set(installed["cases"])
    for name, (buses, branches, orders) in installed["cases"].items():
        assert buses >= 2, name
        assert branches >= buses - 1, name
        assert orders >= 1 or name.startswith(("ieee37_aggregators", "eight_node")), name


def test_no_dependency_has_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounded = [line for line in project["dependencies"] if "<" in line or "==" in line or "~=" in line]
    assert bounded == []
