"""Choosing a solver, its options, and what it says when it cannot."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyomo.environ as pyo
import pytest

from mktopt.errors import FormulationError, SolverError, UnknownNameError
from mktopt.solvers import SOLVERS, Has, Stopped, choose, compile, solve


def model_of(kind: str, sense=pyo.minimize):
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), bounds=(0, 4), domain=pyo.Integers if kind.startswith("MI") else pyo.Reals)
    model.c = pyo.Constraint(expr=model.x[0] + model.x[1] + model.x[2] >= 2.5)
    cost = sum((i + 1) * model.x[i] for i in range(3))
    if kind.endswith("QP"):
        cost = cost + sum(v**2 for v in model.x.values())
    if kind.endswith(("SOCP", "EXP")):
        model.ball = pyo.Constraint(expr=sum(v**2 for v in model.x.values()) <= 4)
    if kind.endswith("EXP"):
        cost = cost - pyo.log(model.x[2] + 1)
    if kind == "NLP":
        model.bent = pyo.Constraint(expr=model.x[0] * pyo.exp(model.x[1]) >= 1)
    model.obj = pyo.Objective(expr=cost if sense == pyo.minimize else -cost, sense=sense)
    return model


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("LP", "highs"), ("MILP", "highs"), ("QP", "clarabel"), ("MIQP", "outer_approximation"), ("SOCP", "clarabel"),
        ("MISOCP", "outer_approximation"), ("MIEXP", "outer_approximation"),
        ("EXP", "clarabel"), ("NLP", "ipopt"),
    ],
)  # fmt: skip
def test_the_problem_class_chooses(kind, name):
    program = compile(model_of(kind))
    assert program.problem_class == kind
    assert choose(program).name == name
    solution = solve(program)
    assert solution.solver == name
    assert solution.version
    assert solution.seconds["total"] >= solution.seconds["solve"] > 0


@pytest.mark.parametrize("name", list(SOLVERS))
def test_every_solver_is_available_and_solves_all_that_it_claims(name):
    solver = SOLVERS[name]
    assert solver.available(), str(solver.available())
    for kind in solver.takes:
        values = [solve(compile(model_of(kind, sense)), name) for sense in (pyo.minimize, pyo.maximize)]
        expected = Has.LOCAL if kind == "NLP" else Has.OPTIMAL
        assert [item.status.has for item in values] == [expected, expected]
        assert values[0].objective == pytest.approx(-values[1].objective)


def test_a_solver_that_cannot_take_the_class_names_those_that_can():
    with pytest.raises(FormulationError, match=r"'clarabel' takes LP, QP, SOCP, EXP, and this is a MILP; use 'highs'"):
        solve(compile(model_of("MILP")), "clarabel")


def test_unknown_names_are_refused_with_the_nearest():
    program = compile(model_of("LP"))
    with pytest.raises(UnknownNameError, match="unknown solver 'hihgs'; did you mean 'highs'"):
        solve(program, "hihgs")
    with pytest.raises(UnknownNameError, match="did you mean 'time_limit'"):
        solve(program, "highs", {"timelimit": 3})
    with pytest.raises(UnknownNameError, match="did you mean 'tol_gap_rel'"):
        solve(program, "clarabel", {"tol_gap_rell": 3})
    with pytest.raises(UnknownNameError, match="did you mean 'mip_gap'"):
        solve(compile(model_of("MIQP")), None, {"mipgap": 0.1})


def test_values_that_an_option_cannot_take_are_refused():
    program = compile(model_of("LP"))
    with pytest.raises(SolverError, match="'time_limit' does not take the value 'long'"):
        solve(program, "clarabel", {"time_limit": "long"})
    with pytest.raises(SolverError, match="'threads' does not take the value 'many'"):
        solve(program, "highs", {"threads": "many"})
    with pytest.raises(SolverError, match="'mip_gap' must be a positive number"):
        solve(compile(model_of("MIQP")), None, {"mip_gap": -1})


def test_options_reach_the_solver():
    program = compile(model_of("QP"))
    stopped = solve(program, "clarabel", {"max_iter": 1})
    assert stopped.status.stopped is Stopped.ITERATION_LIMIT
    assert not stopped.status.ok
    assert solve(compile(model_of("LP")), "highs", {"time_limit": 5}).status.ok
    assert solve(compile(model_of("LP")), "highs", {"solver": "ipm"}).status.ok


def test_the_time_limit_is_said():
    random = np.random.default_rng(1)
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(60), domain=pyo.Binary)
    weights = random.integers(10**6, 10**7, (6, 60))
    model.c = pyo.Constraint(
        range(6),
        rule=lambda m, i: sum(int(w) * m.x[j] for j, w in enumerate(weights[i])) == int(weights[i, ::2].sum()) + 1,
    )
    model.obj = pyo.Objective(expr=sum(model.x.values()))
    solution = solve(compile(model), "highs", {"time_limit": 0.05})
    assert solution.status.stopped is Stopped.TIME_LIMIT
    assert solution.status.has in (Has.NOTHING, Has.FEASIBLE)
    assert str(solution.status).startswith("stopped: time limit; has ")


BENT = [
    (lambda x: x[0] ** 2 - x[1] ** 2, pyo.minimize, "x[1]"),
    (lambda x: x[2] ** 2, pyo.maximize, "x[2]"),
    (lambda x: x[0] * x[1], pyo.minimize, "x["),
    (lambda x: x[0] ** 2 + x[1] ** 2 + 3 * x[0] * x[1], pyo.minimize, "x["),
]


def bent(expression, sense):
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(3), bounds=(0, 1))
    model.obj = pyo.Objective(expr=expression(model.x), sense=sense)
    return compile(model)


@pytest.mark.parametrize(("expression", "sense", "culprit"), BENT)
def test_objectives_that_bend_the_wrong_way_are_solved_locally(expression, sense, culprit):
    program = bent(expression, sense)
    assert program.problem_class == "NLP"
    solution = solve(program)
    assert solution.solver == "ipopt"
    assert solution.status.has is Has.LOCAL
    assert np.isnan(solution.residuals.gap)
    assert solution.residuals.ok()


@pytest.mark.parametrize("solver", ["clarabel", "highs"])
def test_objectives_that_bend_the_wrong_way_are_refused_by_convex_solvers(solver):
    for expression, sense, culprit in BENT:
        with pytest.raises(FormulationError) as error:
            solve(bent(expression, sense), solver)
        assert culprit in str(error.value)
        assert "bends the wrong way" in str(error.value)
        assert "use 'ipopt'" in str(error.value)


@pytest.mark.parametrize("shift", [0.0, -1e-3])
def test_convexity_of_many_coupled_variables(shift):
    n = 600  # the second difference matrix: eigenvalues from nearly 0 to 4
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(n), bounds=(-1, 1))
    x = model.x
    model.obj = pyo.Objective(
        expr=x[0] ** 2 + sum((x[i] - x[i + 1]) ** 2 for i in range(n - 1)) + sum(shift * v**2 for v in x.values())
    )
    if shift:
        with pytest.raises(FormulationError, match="bends the wrong way"):
            solve(compile(model), "clarabel")
    else:
        assert solve(compile(model)).objective == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("solver", [None, "highs", "clarabel"])
def test_degenerate_shapes(solver):
    model = pyo.ConcreteModel()
    model.x = pyo.Var(initialize=3.0)
    model.obj = pyo.Objective(expr=(model.x - 1) ** 2 if solver != "highs" else 2 * model.x)
    model.x.fix()
    model.c = pyo.Constraint(expr=model.x <= 3)
    nothing = solve(compile(model), solver)
    assert nothing.status.ok
    assert nothing.objective == (4.0 if solver != "highs" else 6.0)
    assert nothing.has_duals
    model.d = pyo.Constraint(expr=model.x >= 4)
    assert solve(compile(model), solver).status.stopped is Stopped.INFEASIBLE
    model.d.deactivate()
    model.x.unfix()
    model.x.setlb(5)
    assert "infeasible" in str(solve(compile(model), solver).status)
    model.c.deactivate()
    assert solve(compile(model), solver).x == pytest.approx([5.0])


def test_importing_the_solvers_imports_no_solver():
    code = (
        "import sys, mktopt.solvers\n"
        "heavy = ('highspy', 'clarabel', 'scipy.sparse', 'scipy.stats', 'pandas')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
