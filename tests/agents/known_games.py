"""Games whose equilibria are known, each with where its numbers come from."""

from __future__ import annotations

import pyomo.environ as pyo

from mktopt.formulations.game import Game


def cournot(costs: list[float], a: float = 100.0, b: float = 1.0, cap: float | None = None) -> Game:
    """Firms choose q_i >= 0 at price a - b sum q. Interior: q_i = (a - n c_i + sum_{j != i} c_j) / (b (n + 1)).

    With sum q <= cap binding and one multiplier y: a - b cap - b q_i - c_i = y, so that with y = a - b cap - (b cap +
    sum c) / n each firm has q_i = (a - b cap - c_i - y) / b. Any split with a - b cap - b q_i - c_i >= 0 is a GNE.
    """
    n = len(costs)
    model = pyo.ConcreteModel()
    model.q = pyo.Var(range(n), bounds=(0, None))
    price = a - b * sum(model.q.values())
    game = Game(model)
    for i, cost in enumerate(costs):
        game.player(f"firm{i}", model.q[i], maximise=(price - cost) * model.q[i])
    if cap is not None:
        model.cap = pyo.Constraint(expr=sum(model.q.values()) <= cap)
        game.shared(model.cap)
    return game


def facchinei_kanzow() -> Game:
    """min (x - 1)^2 and min (y - 1/2)^2 s.t. x + y <= 1: GNEs (a, 1 - a) for 1/2 <= a <= 1.

    Variational: 2(x - 1) = 2(y - 1/2) = -y on x + y = 1, so (3/4, 1/4) with multiplier 1/2.
    Facchinei and Kanzow, 4OR 5 (2007).
    """
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(), pyo.Var()
    model.cap = pyo.Constraint(expr=model.x + model.y <= 1)
    game = Game(model).player("one", model.x, minimise=(model.x - 1) ** 2)
    return game.player("two", model.y, minimise=(model.y - 0.5) ** 2).shared(model.cap)


def harker() -> Game:
    """Harker, EJOR 54 (1991): (5, 9), and all of (15 - s, s) for 5 <= s <= 6.

    At (5, 9) both slopes vanish: 10 + 24 - 34 and 18 + 6.25 - 24.25; x + y = 14 leaves the shared row slack, so it is
    variational, and the only one, since F is strongly monotone. On x + y = 15 the multipliers are 4 - 2 s / 3 and
    5.5 - 0.75 s, both >= 0 up to s = 6; x <= 10 gives s >= 5.
    """
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, 10)), pyo.Var(bounds=(0, 10))
    x, y = model.x, model.y
    model.cap = pyo.Constraint(expr=x + y <= 15)
    game = Game(model).player("one", x, minimise=x**2 + 8 / 3 * x * y - 34 * x)
    return game.player("two", y, minimise=y**2 + 5 / 4 * x * y - 24.25 * y).shared(model.cap)


RIVER = {
    "c1": (0.10, 0.12, 0.15),
    "c2": (0.01, 0.05, 0.01),
    "e": (0.50, 0.25, 0.75),
    "u": ((6.5, 5.0, 5.5), (4.583, 6.250, 3.750)),
    "K": (100.0, 100.0),
    "d": (3.0, 0.01),
}


def river_basin() -> Game:
    """Three firms sell at price 3 - 0.01 sum x, cost (c1 + c2 x) x, and share two limits sum_j u_lj e_j x_j <= 100.

    Krawczyk and Uryasev, Environmental Modeling and Assessment 5 (2000): the normalised equilibrium is
    about (21.149, 16.028, 2.722), with multipliers about (0.574, 0).
    """
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), bounds=(0, None))
    price = RIVER["d"][0] - RIVER["d"][1] * sum(model.x.values())
    model.limit = pyo.Constraint(
        range(2), rule=lambda m, k: sum(RIVER["u"][k][j] * RIVER["e"][j] * m.x[j] for j in range(3)) <= RIVER["K"][k]
    )
    game = Game(model)
    for j in range(3):
        cost = (RIVER["c1"][j] + RIVER["c2"][j] * model.x[j]) * model.x[j]
        game.player(f"firm{j}", model.x[j], maximise=price * model.x[j] - cost)
    return game.shared(model.limit)


def pennies() -> Game:
    """One wants to be far from the other, the other to be near: max (x - y)^2, min (x - y)^2 on [0, 1].

    Two answers y = x; one then moves to the farther end. No equilibrium. Every x = y is a KKT point.
    """
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, 1)), pyo.Var(bounds=(0, 1))
    distance = (model.x - model.y) ** 2
    return Game(model).player("far", model.x, maximise=distance).player("near", model.y, minimise=distance)


def race() -> Game:
    """Whoever has more wins, and nothing limits it: max x - y and max y - x. No KKT point: the slopes are 1."""
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(0, None)), pyo.Var(bounds=(0, None))
    game = Game(model).player("one", model.x, maximise=model.x - model.y)
    return game.player("two", model.y, maximise=model.y - model.x)


def moving_sets() -> Game:
    """min x^2 / 2 s.t. x >= 1 + y / 2, and the same with x and y exchanged: both bind, x = y = 2, multipliers -2.

    (A multiplier is what is gained by raising the right-hand side: raising a lower limit by 1 costs 2.)
    """
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(), pyo.Var()
    model.one = pyo.Constraint(expr=model.x - model.y / 2 >= 1)
    model.two = pyo.Constraint(expr=model.y - model.x / 2 >= 1)
    game = Game(model).player("one", model.x, minimise=model.x**2 / 2, constraints=model.one)
    return game.player("two", model.y, minimise=model.y**2 / 2, constraints=model.two)


def bilinear(bound: float | None = None) -> Game:
    """min x y against max x y: the only equilibrium is (0, 0), and the field only turns: F = (y, -x)."""
    model = pyo.ConcreteModel()
    box = (None, None) if bound is None else (-bound, bound)
    model.x, model.y = pyo.Var(bounds=box, initialize=1.0), pyo.Var(bounds=box, initialize=0.5)
    game = Game(model).player("one", model.x, minimise=model.x * model.y)
    return game.player("two", model.y, maximise=model.x * model.y)


def coordination() -> Game:
    """Both want to meet: max -(x - y)^2 on [0, 1]. Every x = y is an equilibrium."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var(bounds=(0, 1), initialize=0.2)
    model.y = pyo.Var(bounds=(0, 1), initialize=0.6)
    apart = (model.x - model.y) ** 2
    return Game(model).player("one", model.x, minimise=apart).player("two", model.y, minimise=apart)


def same_sign() -> Game:
    """max x y for both on [-1, 1]: equilibria (1, 1), (-1, -1) and (0, 0)."""
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(-1, 1)), pyo.Var(bounds=(-1, 1))
    product = model.x * model.y
    return Game(model).player("one", model.x, maximise=product).player("two", model.y, maximise=product)


def units(a: float = 1.0, b: float = 1.0, x: float = 1.0, y: float = 1.0, shared: bool = False) -> Game:
    """max a X (10 - X - Y / 2) and min b (Y^2 - 8 Y + X Y / 2), X = x-variable / x, Y = y-variable / y.

    10 = 2 X + Y / 2 and 8 = 2 Y + X / 2: X = 64 / 15, Y = 44 / 15, in whatever money a, b and in whatever units x, y.
    """
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(), pyo.Var()
    X, Y = model.x / x, model.y / y
    game = Game(model).player("a", model.x, maximise=a * (X * (10 - X - 0.5 * Y)))
    game.player("b", model.y, minimise=b * (Y * Y - 8 * Y + 0.5 * X * Y))
    if shared:
        model.cap = pyo.Constraint(expr=X + Y <= 5)
        game.shared(model.cap)
    return game


def two_wells(constant: float = 0.0, other: float = 0.0) -> Game:
    """max constant + other y - (x^2 - 1)^2 + x / 10 on [-2, 2]: a local maximum near -0.987, the global one near 1.012.

    x^3 - x = 1 / 40 at both. What is constant, or another's to choose, changes nothing.
    """
    model = pyo.ConcreteModel()
    model.x, model.y = pyo.Var(bounds=(-2, 2), initialize=-0.98), pyo.Var(bounds=(0, 1e6), initialize=0.5)
    game = Game(model).player("a", model.x, maximise=constant + other * model.y - (model.x**2 - 1) ** 2 + 0.1 * model.x)
    return game.player("b", model.y, minimise=(model.y - 1e6) ** 2 * 1e-6)
