"""Constraints of the user's own: any Pyomo, their duals in the result, and clear words where they cannot be taken."""

from __future__ import annotations

import pyomo.environ as pyo
import pytest

import mktopt as mo
from mktopt.testing import check_prices, small_market


def limited(value: float) -> mo.Clearing:
    network, orders = small_market()

    def together(model, network):
        model.together = pyo.Constraint(
            model.periods, rule=lambda m, t: m.accepted_kw["load a", t] + 2 * m.accepted_kw["pv", t] <= value + 10 * t
        )

    return mo.clear("surplus", network, orders, extra=together)


def test_a_dual_is_what_welfare_gains_per_unit_of_right_hand_side():
    clearing, more = limited(60.0), limited(60.0 + 1e-3)
    duals = clearing.constraints["dual"]
    assert (duals > 1e-3).all()
    assert clearing.constraints["index"].tolist() == ["0", "1"]
    assert (more.welfare - clearing.welfare) / 1e-3 == pytest.approx(duals.sum(), rel=1e-3)
    assert clearing.certificate.ok(), clearing.certificate


@pytest.mark.parametrize(
    "extra",
    [
        lambda model, network: model.accepted_kw["up", 0] <= 50,
        lambda model, network: 50 >= model.accepted_kw["up", 0],
        lambda model, network: [model.accepted_kw["up", t] <= 50 for t in model.periods],
        lambda model, network: model.grid.p_kw["s-a", 0] <= 50,
        lambda model, network: pyo.inequality(10, model.accepted_kw["up", 0], 50),
    ],
    ids=["relation", "reversed", "several", "on the grid", "range"],
)
def test_a_relation_may_be_returned(extra):
    network, orders = small_market()
    clearing = mo.clear("surplus", network, orders, extra=[extra])
    assert clearing.quantity("up") == pytest.approx(50, abs=1e-5)
    assert clearing.constraints["dual"].abs().max() > 1e-3
    assert clearing.certificate.ok(), clearing.certificate


def test_prices_hold_with_a_row_on_a_branch():
    network, orders = small_market()
    check_prices("surplus", network, orders, extra=[lambda model, network: model.grid.p_kw["s-a", 1] <= 60])


def test_a_row_need_not_be_linear_nor_convex():
    network, orders = small_market()
    rows = [
        lambda model, network: model.accepted_kw["up", 0] ** 2 + model.accepted_kw["pv", 0] ** 2 <= 100**2,
        lambda model, network: pyo.log(model.accepted_kw["load a", 1] + 1) >= 4.6,
        lambda model, network: model.accepted_kw["load b", 1] * model.accepted_kw["pv", 1] <= 900,
    ]
    for row in rows:
        clearing = mo.clear("surplus", network, orders, extra=row)
        assert clearing.constraints["dual"].abs().item() > 1e-5
        assert clearing.certificate.ok(), clearing.certificate
        assert clearing.certificate.local == (row is rows[2])
        check_prices("surplus", network, orders, buses=["a"], extra=[row])


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (lambda model, network: None, "declared no constraint; attach one"),
        (lambda model, network: 5, "returned 5, which is no relation"),
        (lambda model, network: model.accepted_kw["upp", 0] <= 5, "upp"),
        (lambda model, network: model.grid.p_kw["s-b", 0] <= 5, "s-b"),
        (lambda model, network: setattr(model, "mine", pyo.Objective(expr=0)), "declares an objective"),
        (lambda model, network: model.accepted_kw["up", 0] < 5, "cannot be taken"),
    ],
    ids=["nothing", "number", "unknown order", "unknown branch", "objective", "strict"],
)
def test_what_cannot_be_taken_is_refused_in_words(extra, said):
    network, orders = small_market()
    with pytest.raises(mo.FormulationError, match=said):
        mo.clear("surplus", network, orders, extra=[extra])


def test_the_nearest_order_is_named():
    network, orders = small_market()
    with pytest.raises(mo.FormulationError, match=r"did you mean .*load a"):
        mo.clear("surplus", network, orders, extra=[lambda model, _: model.accepted_kw["loda a", 0] <= 5])
