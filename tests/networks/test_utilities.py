"""Own utilities: derivatives and demand against closed forms, and refusals that name agent and points."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pyomo.environ as pyo
import pytest

from mktopt.errors import DataError, FormulationError
from mktopt.formulations.utilities import own_utility, utility_expression
from mktopt.networks.prosumers import Prosumers
from mktopt.networks.roots import falling_root
from mktopt.networks.utilities import UTILITIES


def root(x: Any, a: Any, b: Any) -> Any:
    return a * pyo.sqrt(x) + b * x


def written_log(x: Any, a: Any, b: Any) -> Any:
    return a * pyo.log(1 + x / b)


def saturating(x: Any, a: Any, b: Any) -> Any:
    return a * (1 - pyo.exp(-x / b))


def power(x: Any, a: Any, b: Any) -> Any:
    return a * (x + b) ** 0.3


OWN = {"root": own_utility("root", root), "power": own_utility("power", power),
       "saturating": own_utility("saturating", saturating), "written": own_utility("written", written_log)}  # fmt: skip


def one(name: str, a: float, b: float, record: Any = None, generation_kw: float = 0.0) -> Prosumers:
    """A lone agent with own utility `name`."""
    row = {"agent": "x", "bus": "n", "utility": name, "a": a, "b": b, "generation_kw": generation_kw}
    return Prosumers(pd.DataFrame([row]), utilities={name: record or OWN[name]})


def test_a_root_on_paper() -> None:
    # u = 2 sqrt(x) + 0.01 x:  u' = 1/sqrt(x) + 0.01,  u'' = -1/2 x^(-3/2),  d(c) = (c - 0.01)^-2
    some = one("root", 2.0, 0.01)
    assert some.utility(9.0) == pytest.approx(6.09)
    assert some.marginal(4.0) == pytest.approx(0.51)
    assert some.curvature(4.0) == pytest.approx(-1 / 16)
    prices = np.array([[5.01], [0.51], [0.02]])
    assert some.demand_at(prices) == pytest.approx((prices - 0.01) ** -2.0, rel=1e-12)
    assert some.marginal(0.0) == np.inf
    assert some.demand_at(0.01) == np.inf  # its marginal never falls to this price


@pytest.mark.parametrize("a", [0.4, 2.0])
def test_the_logarithm_written_out_is_the_built_in_one(a: float) -> None:
    own, known = one("written", a, 3.0), UTILITIES["log"]
    x, prices = np.linspace(0, 50, 7)[:, None], np.geomspace(1e-3, 1.0, 7)[:, None]
    for curve, at in (("value", x), ("marginal", x), ("curvature", x), ("demand", prices)):
        expected = getattr(known, curve)(at, own.a, own.b)
        assert getattr(OWN["written"], curve)(at, own.a, own.b) == pytest.approx(expected, rel=1e-12, abs=1e-12), curve


def test_shapes_and_mixtures() -> None:
    names = ["log", "quadratic", "root", "saturating"]
    table = pd.DataFrame({"agent": list("abcd"), "bus": "n", "utility": names, "a": [1.0, 0.5, 2.0, 3.0],
                          "b": [2.0, 0.02, 0.0, 5.0], "generation_kw": 1.0})  # fmt: skip
    some = Prosumers(table, utilities=OWN)
    some.refuse_not_concave()
    x = np.array([[0.5], [3.0], [20.0]])
    step = 1e-5
    assert some.demand_at(some.marginal(x)) == pytest.approx(np.broadcast_to(x, (3, 4)), rel=1e-9)
    slope = (some.marginal(x + step) - some.marginal(x - step)) / (2 * step)
    assert some.curvature(x) == pytest.approx(slope, rel=1e-6)
    assert some.demand_at(np.inf).tolist() == [0, 0, 0, 0]
    model = pyo.ConcreteModel()
    model.x = pyo.Var(initialize=3.0)
    values = [pyo.value(utility_expression(some, i, model.x)) for i in range(4)]
    assert values == pytest.approx(some.utility(3.0))


def test_a_power_below_zero_parameters_and_pickles() -> None:
    some = one("root", 2.0, -0.1)  # only the built-in forms need positive parameters
    copy = pickle.loads(pickle.dumps(some))  # noqa: S301 what is loaded was made here
    assert copy.demand_at(0.3) == pytest.approx([(0.3 + 0.1) ** -2.0])
    assert repr(copy) == repr(some)


@pytest.mark.parametrize(
    ("function", "a", "message"),
    [
        (lambda x, a, b: a * x**2, 1.0, r"not strictly concave: its marginal is 0 \$/kWh at x = 0 kW and"),
        (lambda x, a, b: a * x, 1.0, r"not strictly concave: its marginal is 1 \$/kWh at x = 0 kW and 1 at x = "),
        (lambda x, a, b: a * x - b * (x - 8) ** 3, 1.0, r"not strictly concave: its marginal is"),
        (lambda x, a, b: a * pyo.log(x), 1.0, r"the utility is -inf at x = 0 kW"),
        (lambda x, a, b: pyo.sqrt(9 - x) + 0 * a, 1.0, r"the utility is nan at x = \S+ kW"),
    ],
)
def test_what_is_not_concave_is_named(function: Any, a: float, message: str) -> None:
    some = one("mine", a, 0.1, own_utility("mine", function), 5.0)
    with pytest.raises(DataError, match=f"row 'x', column 'utility', value 'mine': .*{message}.*tried 0 and"):
        some.refuse_not_concave()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, a, b: np.log(1 + x), "'mine': the function cannot take Pyomo variables"),
        (lambda x, a, b: 3.0, "'mine': the function gave 3.0, no Pyomo expression"),
        (lambda x, a, b: a * pyo.tanh(x), "'mine': .* cannot be differentiated twice"),
        (7, "'mine': expected a function"),
    ],
)
def test_what_is_no_expression_is_refused(function: Any, message: str) -> None:
    with pytest.raises(FormulationError, match=message):
        own_utility("mine", function)


def test_tables_of_utilities() -> None:
    table = one("root", 1.0, 0.0).table
    with pytest.raises(DataError, match=r"value 'root': unknown word \(one of log, quadratic\)"):
        Prosumers(table)
    with pytest.raises(DataError, match=r"did you mean 'roots'\?"):
        Prosumers(table, utilities={"roots": OWN["root"]})
    with pytest.raises(DataError, match="row 'log': the name of a built-in utility"):
        Prosumers(table, utilities={"log": OWN["root"]})
    with pytest.raises(DataError, match="expected a Utility, got function"):
        Prosumers(table, utilities={"root": root})
    with pytest.raises(DataError, match="own cannot become orders"):
        one("root", 1.0, 0.0).to_orders(max_error=1e-3)


def test_roots_of_many_functions() -> None:
    wanted = np.array([0.0, 1e-9, 0.3, 7.0, 10.0, 12.0])
    for power_ in (1, 3, 0.2):
        found = falling_root(lambda x, n=power_: wanted**n - x**n, np.zeros(6), np.full(6, 10.0))
        assert found == pytest.approx(np.minimum(wanted, 10.0), rel=1e-12, abs=1e-15)
