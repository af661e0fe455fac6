"""The proof of a coalition's record: it holds for what is right and fails for what was tampered with."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest

import mktopt as mo
from mktopt.clearing.coalition_certificate import coalition_certificate
from mktopt.errors import MktoptError
from mktopt.formulations.coalition import BEHAVIOURS, DECIDED
from tests.agents.private_grids import grid, has, main_grid, orders_of, step


@cache
def cleared(behaviour: str) -> mo.Clearing:
    network = grid([("A", "B", 1e-3), ("B", "C", 1e-3)], buses="ABC", hours=(1.0, 0.5))
    rows = [has("A", 30.0), has("B", -10.0), has("C", -9.0), has("A", 20.0, 1), has("C", -5.0, 1)]
    orders = orders_of(*rows, step("B:sun", "B", "offer", 6.0, 0.15), main=main_grid(periods=2))
    return mo.clear("coalition", network, orders, behaviour=behaviour)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_it_holds(behaviour: str) -> None:
    found = coalition_certificate(cleared(behaviour))
    assert found.ok(1e-6), str(found)
    assert (found.choice is None) == (behaviour not in DECIDED)
    assert "holds" in str(found)
    certificate = cleared(behaviour).certificate
    assert certificate.ok(), str(certificate)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize(
    "field", ["resource_cost", "public_loss_kwh", "private_loss_kwh", "import_kwh", "demand_value"]
)
def test_another_number_is_found_out(behaviour: str, field: str) -> None:
    clearing = cleared(behaviour)
    other = replace(clearing.coalition, **{field: getattr(clearing.coalition, field) + 0.01})
    found = coalition_certificate(replace(clearing, coalition=other))
    assert set(found.failures()) & {"losses", "costs"}
    assert "FAILS" in str(found)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize(("table", "column"), [("trades", "payment"), ("payments", "saving"), ("groups", "cost")])
def test_another_payment_is_found_out(behaviour: str, table: str, column: str) -> None:
    clearing = cleared(behaviour)
    frame = getattr(clearing.coalition, table).copy()
    frame.loc[0, column] += 0.01
    found = coalition_certificate(replace(clearing, coalition=replace(clearing.coalition, **{table: frame})))
    assert "payments" in found.failures()


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_number_that_is_none_is_found_out(behaviour: str) -> None:
    clearing = cleared(behaviour)
    for name, value in vars(clearing.coalition).items():
        if isinstance(value, float):
            found = coalition_certificate(replace(clearing, coalition=replace(clearing.coalition, **{name: math.nan})))
            assert not found.ok(), name
    for change in ({"retail": (0.21, 0.2)}, {"wholesale": (0.2, 0.2)}, {"settled_cost": 0.5}, {"groups": None}):
        assert not coalition_certificate(replace(clearing, coalition=replace(clearing.coalition, **change))).ok()
    lost = clearing.flows.assign(loss_kw=clearing.flows["loss_kw"] + 1e-3)
    assert replace(clearing, flows=lost).certificate.failures() == ["tables"]


@pytest.mark.parametrize("behaviour", DECIDED)
def test_another_private_price_is_found_out(behaviour: str) -> None:
    clearing = cleared(behaviour)
    prices = clearing.coalition.private_prices
    at_a = (prices["bus"] == "A").to_numpy() & (prices["period"] == 0).to_numpy()
    dearer = prices["price"].to_numpy() + 1e-3 * at_a
    for change in ({"price": dearer}, {"bus": prices["bus"].to_numpy()[::-1]}, {"period": 0}):
        forged = replace(clearing.coalition, private_prices=prices.assign(**change))
        assert not coalition_certificate(replace(clearing, coalition=forged)).ok(), change


@pytest.mark.parametrize("behaviour", DECIDED)
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_another_choice_is_found_out(behaviour: str, factor: float) -> None:
    """The wire carries a tenth more or less, with the loss that goes with it."""
    clearing = cleared(behaviour)
    flows = clearing.flows.copy()
    row = flows.index[(flows["branch"] == "w0") & (flows["period"] == 0)][0]
    mean = factor * (flows.loc[row, "p_kw"] + flows.loc[row, "to_kw"]) / 2
    half = 0.5e-3 * mean**2
    flows.loc[row, ["p_kw", "to_kw"]] = [mean + half, mean - half]
    found = coalition_certificate(replace(clearing, flows=flows))
    assert found.choice is not None and found.choice > 1e-4


@pytest.mark.parametrize("behaviour", DECIDED)
def test_an_order_out_of_merit_is_found_out(behaviour: str) -> None:
    """B's generator costs 0.15 and the kW that it makes could have come from A for less."""
    clearing = cleared(behaviour)
    dispatch = clearing.dispatch.copy()
    row = dispatch.index[(dispatch["order"] == "B:sun")][0]
    dispatch.loc[row, "quantity_kw"] += 1.0
    found = coalition_certificate(replace(clearing, dispatch=dispatch))
    assert found.choice is not None
    assert found.choice > 1e-3


def test_what_traders_do_not_know_is_no_choice_of_theirs() -> None:
    clearing = cleared("ad_hoc")
    assert coalition_certificate(replace(clearing, options={**clearing.options, "radius_km": 0.5})).choice == float(
        "inf"
    )


def test_other_mechanisms_have_none() -> None:
    network, orders = grid(), orders_of(has("B", -1.0))
    with pytest.raises(MktoptError, match="no record"):
        coalition_certificate(mo.clear("surplus", network, orders))
