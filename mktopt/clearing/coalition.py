"""`Coalition`: what a clearing of mechanism `coalition` says beyond its dispatch: costs, losses, trades, money, groups.

    resource cost = generation + main grid - flexible demand
    generation      = sum hours cost(q) over agents' accepted offers                                                [$]
    main grid       = sum hours (c import - w export), c = w = wholesale, else retail and feed-in                   [$]
    flexible demand = sum hours value(q) over agents' bids that are not firm; what firm bids are worth is left out  [$]

What each pays, so that sum (payment - rent) = 0 and sum (payment - rent + cost) = resource cost over all players:

    cooperative, integrated   nodal prices; private wires' rents go to their owners, public ones' to `public grid`
    self_interested           tariffs for what the group takes from and gives to the public grid; within it the duals of
                              its own program, with rents to the owners of wires
    ad_hoc                    tariffs for what a bus takes from and gives to the public grid; each pair its own price
                              for each trade, which gives all whose consent it takes the same part of the gain

Public losses are the main grid's affair where agents pay tariffs, and in the prices where they are nodal.
`alone`: what a player's orders would cost it net at the tariffs, without wires and without others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True, eq=False)
class Coalition:
    """The record of a clearing with private wires. Frozen.

    behaviour: one of `mktopt.formulations.coalition.BEHAVIOURS`; retail, feed_in, wholesale: tariffs and what the main
    grid's energy costs [$/kWh], one per period (wholesale None: the tariffs); resource_cost, generation_cost,
    main_grid_cost, demand_value [$] (see the module's text); public_loss_kwh, private_loss_kwh: rho f^2 of all wires;
    import_kwh, export_kwh: over the source, net in every period; phantom_kwh: what is wasted besides (free disposal),
    zero wherever the relaxation is tight: must-take energy that fits no limit, or that is paid to be rid of; the costs
    hold only where it can be curtailed; settled_cost [$]: of `integrated`, the resource cost when physics settles its
    private flows and elastic orders, None elsewhere and where they do not fit the public grid.

    trades: branch, period, seller, buyer (buses), kind, sent_kw, received_kw, loss_kw, price [$/kWh received], payment
    [$]: private wires that carry something. price: of ad_hoc what the buyer pays, else the mean price of both ends.
    payments: player, group, need_kwh, surplus_kwh (accepted bids and offers), private_kwh, public_kwh (net taken over
    either; several at a bus share in proportion to what they trade), payment [$] (positive: pays), rent [$], cost [$]
    (of own generation, less what flexible demand is worth), alone [$], saving [$] = alone - (payment - rent + cost).
    Rows of the main grid and the public grid close the account and have no `alone`.
    groups: group, members, size, wires, cost [$] (payment - rent + cost of its members), alone [$], saving [$].
    private_prices: bus, period, price [$/kWh]: what a kWh was worth to those who decided the private flows; None where
    they were not decided apart.
    """

    behaviour: str
    retail: tuple[float, ...]
    feed_in: tuple[float, ...]
    wholesale: tuple[float, ...] | None
    resource_cost: float
    generation_cost: float
    main_grid_cost: float
    demand_value: float
    public_loss_kwh: float
    private_loss_kwh: float
    import_kwh: float
    export_kwh: float
    trades: pd.DataFrame = field(repr=False)
    payments: pd.DataFrame = field(repr=False)
    groups: pd.DataFrame = field(repr=False)
    phantom_kwh: float = 0.0
    settled_cost: float | None = None
    private_prices: pd.DataFrame | None = field(default=None, repr=False)

    @property
    def behaviour_in_words(self) -> str:
        """ad hoc, self-interested, cooperative or integrated."""
        return self.behaviour.replace("self_", "self-").replace("_", " ")

    @property
    def loss_kwh(self) -> float:
        """All losses of wires [kWh]."""
        return self.public_loss_kwh + self.private_loss_kwh

    def __str__(self) -> str:
        wired = int((self.groups["wires"] > 0).sum())
        text = (
            f"{self.behaviour}: resource cost {self.resource_cost:z,.4f} $, losses {self.public_loss_kwh:z,.4f} kWh "
            f"public and {self.private_loss_kwh:z,.4f} kWh private, {self.import_kwh:,.2f} kWh in and "
            f"{self.export_kwh:,.2f} out, {len(self.trades)} private trade(s), {wired} group(s) with wires"
        )
        if self.phantom_kwh > 0.0:
            text = f"{text}; {self.phantom_kwh:,.4f} kWh wasted that no wire would lose"
        return text if self.settled_cost is None else f"{text}; settled by physics {self.settled_cost:,.4f} $"
