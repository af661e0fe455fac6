"""Units against figures worked out by hand, and the DC coefficient against MATPOWER's definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mktopt.networks import units
from mktopt.networks.matpower import MatpowerCase, to_network
from mktopt.networks.network import Network


def two_buses(**branch: float) -> Network:
    columns = {"branch": "l", "from_bus": "a", "to_bus": "b", "r_ohm": 1.0, "x_ohm": 2.0} | branch
    return Network(
        buses=pd.DataFrame({"bus": ["a", "b"], "base_kv": [10.0, 0.4]}),
        branches=pd.DataFrame([columns]),
        source_bus="a",
    )


def test_one_ohm_at_ten_kv() -> None:
    # Z = U^2 / S = (10 kV)^2 / 1 kVA = 100,000 ohm
    assert units.base_ohm(10.0) == pytest.approx(1e5)
    assert units.ohm_to_pu(1.0, 10.0) == pytest.approx(1e-5)
    assert units.ohm_to_pu(1.0, 10.0, base_kva=100_000.0) == pytest.approx(1.0)


def test_charging_of_a_cable() -> None:
    # 100 microsiemens at 10 kV: 1e-4 S (1e4 V)^2 = 10 kvar
    assert units.us_to_pu(100.0, 10.0) == pytest.approx(10.0)


def test_three_phase_rating() -> None:
    assert units.amperes_to_kva(100.0, 10.0) == pytest.approx(1732.0508, abs=1e-4)


@given(value=st.floats(-1e6, 1e6), kv=st.floats(0.1, 500), base=st.floats(0.1, 1e6), amp=st.floats(0.01, 1e5))
def test_every_converter_has_its_inverse(value: float, kv: float, base: float, amp: float) -> None:
    assert units.pu_to_ohm(units.ohm_to_pu(value, kv, base), kv, base) == pytest.approx(value, rel=1e-12)
    assert units.pu_to_us(units.us_to_pu(value, kv, base), kv, base) == pytest.approx(value, rel=1e-12)
    assert units.kva_to_amperes(units.amperes_to_kva(amp, kv), kv) == pytest.approx(amp, rel=1e-12)


def test_coefficients_count_from_the_from_bus() -> None:
    network = two_buses(ratio=0.9, shift_deg=30.0, b_us=100.0)
    assert units.resistance_pu_per_kw(network) == pytest.approx([1e-5])
    assert units.reactance_pu_per_kvar(network) == pytest.approx([2e-5])
    assert units.reactance_per_kw(network) == pytest.approx([1.8e-5])
    assert units.susceptance_kw(network) == pytest.approx([1 / 1.8e-5])
    assert units.charging_kvar(network) == pytest.approx([10.0])
    assert units.shift_rad(network) == pytest.approx([np.pi / 6])
    assert units.loss_per_kw(network, v_pu=2.0) == pytest.approx([2.5e-6])


def test_a_switch_has_infinite_susceptance() -> None:
    assert np.isinf(units.susceptance_kw(two_buses(x_ohm=0.0))).all()


@given(x=st.floats(-0.5, 0.5).filter(lambda v: abs(v) > 1e-4), tap=st.floats(0.8, 1.2), base=st.floats(1, 1000))
def test_dc_susceptance_is_that_of_matpower(x: float, tap: float, base: float) -> None:
    bus = np.array([[1, 3, 0, 0, 0, 0, 1, 1, 0, 110, 1, 1.1, 0.9], [2, 1, 5, 1, 0, 0, 1, 1, 0, 20, 1, 1.1, 0.9]])
    branch = np.array([[1, 2, 0.01, x, 0.02, 0, 0, 0, tap, 0, 1, -360, 360]])
    network = to_network(MatpowerCase("c", base, bus, np.zeros((0, 10)), branch, None))
    assert units.susceptance_kw(network) == pytest.approx([1000 * base / (x * tap)], rel=1e-9)
