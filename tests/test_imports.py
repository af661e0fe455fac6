"""`import mktopt` is light: what is heavy is imported when it is first needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "casadi",
    "clarabel",
    "cvxpy",
    "cyipopt",
    "highspy",
    "matplotlib",
    "pandapower",
    "pyarrow.parquet",
    "pyomo.environ",
    "scipy.stats",
)


def modules_after(statement: str) -> set[str]:
    """The names in sys.modules of a fresh process that has run `statement`."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def after_import() -> set[str]:
    return modules_after("import mktopt")


@pytest.mark.parametrize("heavy", HEAVY)
def test_import_of_the_package_leaves_heavy_libraries_out(after_import: set[str], heavy: str) -> None:
    assert heavy not in after_import


def test_the_check_sees_a_heavy_import() -> None:
    assert "scipy.stats" in modules_after("import scipy.stats")


def test_data_room_alone_brings_neither_pyomo_nor_a_solver() -> None:
    loaded = modules_after("import mktopt.networks.network, mktopt.networks.orders, mktopt.networks.units")
    libraries = {name.split(".")[0] for name in loaded}
    assert not libraries & {"pyomo", "highspy", "clarabel", "casadi", "matplotlib"}


def test_every_public_name_exists_and_is_listed_once() -> None:
    import mktopt

    assert mktopt.__all__
    assert len(set(mktopt.__all__)) == len(mktopt.__all__)
    for name in mktopt.__all__:
        assert getattr(mktopt, name) is not None, name
    assert set(mktopt.__all__) <= set(dir(mktopt))


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import mktopt

    with pytest.raises(AttributeError, match="no_such_name"):
        mktopt.no_such_name
