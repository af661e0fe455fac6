"""Use case 1 of OpenGridGym: the fitted figures, cleared anew, and what must hold whatever the parameters are."""

from __future__ import annotations

import importlib.util
import itertools
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from mktopt.clearing.result import Clearing
from mktopt.clearing.settlement import settle
from mktopt.demo import UseCase
from mktopt.errors import SolverError
from mktopt.market_power import (
    SHARES,
    MarketPower,
    Parameters,
    consumer_prices,
    flexible_count,
    mean_prices,
    price_levels,
    proved,
)

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NEAR = 5e-4  # $/kWh: 0.05 cents


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def market() -> MarketPower:
    return MarketPower()


@pytest.fixture(scope="module")
def first(market: MarketPower) -> Clearing:
    return market.clear(raised=False)


@pytest.fixture(scope="module")
def second(market: MarketPower) -> Clearing:
    return market.clear()


@pytest.fixture(scope="module")
def third(market: MarketPower) -> Clearing:
    return market.clear(flexible=list(market.consumers.index))


def test_there_are_28_consumers_with_the_real_kw_and_5_equal_supplies(market: MarketPower) -> None:
    assert len(market.consumers) == 28
    assert market.consumers.sum() == pytest.approx(1769.0)
    offers = market.offers(raised=True)
    assert len(offers) == 5
    assert offers["q_max_kw"].nunique() == 1
    assert offers.loc[0, "bus"] == market.network.source_bus
    assert offers.loc[0, "price_min"] == offers.loc[0, "price_max"]
    assert (offers["price_max"] > offers["price_min"])[1:].all()


def test_bids_are_quadruples_that_the_paper_allows(market: MarketPower) -> None:
    for flexible in ((), tuple(market.consumers.index)):
        bids = market.bids(flexible)
        assert (bids["q_max_kw"] > bids["q_min_kw"]).all()
        assert (bids["price_max"] > bids["price_min"]).all()


def test_act_1_has_one_price_and_no_full_branch(first: Clearing) -> None:
    assert consumer_prices(first)["price"].to_numpy() == pytest.approx(0.043, abs=NEAR)
    assert consumer_prices(first)["nodal_price"].to_numpy() == pytest.approx(0.043, abs=NEAR)
    assert first.flows["loading_percent"].max() < 99.0


def test_act_2_has_the_three_published_levels(market: MarketPower, second: Clearing) -> None:
    levels = price_levels(second)
    assert levels["price"].to_numpy() == pytest.approx([0.046, 0.048, 0.069], abs=NEAR)
    assert levels["consumers"].sum() == 28
    assert levels["consumers"].iloc[-1] > 14  # most consumers pay the highest
    full = second.flows.loc[second.flows["loading_percent"] > 99.999, "branch"]
    assert set(full) == set(market.parameters.limits_kva)


def test_the_mean_at_8_percent_is_the_published_one_over_all_pairs(market: MarketPower) -> None:
    # 56 of the 378 pairs stand for all: each consumer is in four
    names = market.consumers.index
    pairs = [(name, names[(k + apart) % len(names)]) for apart in (5, 9) for k, name in enumerate(names)]
    means = [mean_prices(market.clear(flexible=pair))["mean_price"] for pair in pairs]
    assert np.mean(means) == pytest.approx(0.0664, abs=NEAR)


def test_the_recorded_residuals_are_those_of_the_file(first: Clearing, second: Clearing) -> None:
    residuals = Parameters.load().provenance["residuals"]
    assert set(residuals) == {"act1_lowest", "act1_highest", "act2_head", "act2_lateral", "act2_pocket", "mean_8"}
    for published, ours, difference in residuals.values():
        assert difference == pytest.approx(ours - published, abs=1e-9)
        assert abs(difference) <= 0.05
    levels = 100 * price_levels(second)["price"]
    assert levels.tolist() == pytest.approx(
        [residuals[name][1] for name in ("act2_head", "act2_lateral", "act2_pocket")], abs=1e-3
    )
    assert 100 * consumer_prices(first)["price"].min() == pytest.approx(residuals["act1_lowest"][1], abs=1e-3)


def test_the_wholesale_supply_is_used_up_yet_consumers_pay_more_than_it_asks(second: Clearing) -> None:
    wholesale = MarketPower().parameters
    assert second.quantity("wholesale") == pytest.approx(wholesale.capacity_kw)
    assert consumer_prices(second)["price"].min() > wholesale.wholesale_price


def test_every_clearing_is_proved_and_leaves_no_money(first: Clearing, second: Clearing, third: Clearing) -> None:
    for clearing in (first, second, third):
        assert clearing.certificate.ok(), clearing.certificate
        bids = clearing.dispatch[clearing.dispatch["side"] == "bid"]
        offers = clearing.dispatch[clearing.dispatch["side"] == "offer"]
        paid = float((bids["price"] * bids["quantity_kw"]).sum())
        received = float((offers["price"] * offers["quantity_kw"]).sum())
        assert paid == pytest.approx(received, rel=1e-9)


def test_consumers_pay_the_nodal_price_less_one_share_of_the_rent(second: Clearing) -> None:
    # the pricing problem on paper: both sides move by rent / (turnover in kWh), nobody being at a limit
    table = consumer_prices(second)
    share = second.certificate.rent / second.dispatch["quantity_kw"].sum()
    assert (table["nodal_price"] - table["price"]).to_numpy() == pytest.approx(share, rel=1e-5)


def test_raised_offers_pay_where_the_network_protects_them(first: Clearing, second: Clearing) -> None:
    truth = first.orders

    def rewards(clearing: Clearing) -> pd.Series:  # type: ignore[type-arg]
        settled = settle(clearing, truth).orders
        return settled[settled["side"] == "offer"].set_index("order")["reward"]

    before, after = rewards(first), rewards(second)
    assert after["supply 838"] > 2 * before["supply 838"]  # behind the full branch
    assert after["supply 812"] < before["supply 812"]  # beside the cheap source


def test_more_flexibility_never_raises_the_mean_price(market: MarketPower) -> None:
    for seed in (0, 1, 2):
        means = [mean_prices(market.clear(flexible=market.drawn(share, seed)))["mean_price"] for share in SHARES]
        assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(means)), means
        assert means[-1] < means[0] - 0.005


def test_larger_draws_contain_smaller_ones_and_seeds_differ(market: MarketPower) -> None:
    assert [flexible_count(share, 28) for share in SHARES] == [0, 2, 7, 14, 21, 28]
    draws = [market.drawn(share, 5) for share in SHARES]
    assert all(set(small) < set(large) for small, large in itertools.pairwise(draws))
    assert market.drawn(0.25, 5) != market.drawn(0.25, 6)


def test_same_seeds_same_result(market: MarketPower) -> None:
    once, again = (market.flexibility((0.08, 0.75), range(2)) for _ in range(2))
    pd.testing.assert_frame_equal(once, again, check_exact=True)


def test_a_flatter_flexible_bid_gives_a_lower_price(market: MarketPower) -> None:
    everybody = list(market.consumers.index)
    steep = MarketPower(replace(market.parameters, flexible_price=2 * market.parameters.flexible_price))
    price = [mean_prices(m.clear(flexible=everybody))["mean_price"] for m in (market, steep)]
    assert price[0] < price[1]


def test_a_clearing_that_proves_nothing_is_refused(second: Clearing) -> None:
    wrong = replace(second, prices=second.prices.assign(price=second.prices["price"] * 1.01))
    with pytest.raises(SolverError, match="act 2: the certificate does not hold"):
        proved(wrong, "act 2")


def test_the_sites_are_spread_by_the_rule(market: MarketPower) -> None:
    fit = script("opengridgym_fit")
    sites = fit.spread(market.network, 4)
    assert set(sites) == set(market.parameters.raises)
    # on paper: the far end of the trunk, then the far end of the longest lateral
    assert sites[:2] == ["838", "822"]


def test_the_fit_finds_the_levels_again(market: MarketPower) -> None:
    fit = script("opengridgym_fit")
    trunk, lateral = market.parameters.limits_kva
    found = fit.Fit(fit.Conventions(tuple(market.parameters.raises), trunk, lateral)).levels()
    assert found is not None
    for site, factor in market.parameters.raises.items():
        assert found.raises[site] == pytest.approx(factor, abs=2e-3)
    for branch, limit in market.parameters.limits_kva.items():
        assert found.limits_kva[branch] == pytest.approx(limit, abs=0.5)


def test_the_script_leaves_all_tables_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert script("opengridgym_market_power").main(["--quick", "--out", str(out)]) == 0
    pictures = {"act2_map.png", "fig5_dispatch.png", "fig6_elastic.png", "fig7_flexibility.png"}
    assert {path.name for path in out.iterdir()} == pictures | {f"{t}.csv" for t in UseCase.TABLES} | {"summary.md"}
    for picture in pictures:
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    figures = pd.read_csv(out / "figures.csv")
    fitted = figures[(figures["use"] == "fitted") & ~figures["figure"].str.startswith("act 3")]
    assert len(fitted) == 5
    assert (fitted["difference"].abs() <= 0.05).all()
    assert (figures["use"] == "prediction").sum() == 1
    draws = pd.read_csv(out / "flexibility_draws.csv")
    assert draws.groupby("share").size().to_dict() == {0.0: 1, 0.08: 5, 0.25: 5, 0.5: 5, 0.75: 5, 1.0: 1}
    text = (out / "summary.md").read_text(encoding="utf-8")
    assert "holds: primal" in text
    assert text in capsys.readouterr().out + "\n"


def test_the_script_refuses_a_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("mine")
    main = script("opengridgym_market_power").main
    assert main(["--seeds", "1", "--out", str(tmp_path / "taken")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "mine"
