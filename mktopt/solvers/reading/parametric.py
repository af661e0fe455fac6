"""`compile_parametric`: a Pyomo model whose mutable Params stay symbols in the arrays.

    every array y of the program:   y(θ) = base + M θ,   θ: the values of the mutable Params

so that other values cost one sparse product and no walk over expressions. Entries of A, P and the curved parts that a
parameter enters are structural: they stay where they are zero. Fixed variables are numbers, as in `compile`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pyomo.common.gc_manager import PauseGC

from mktopt.errors import FormulationError
from mktopt.solvers.program import Array, Program
from mktopt.solvers.reading.affine import Parameters
from mktopt.solvers.reading.compiler import Arrays, Reader


@dataclass(frozen=True, eq=False)
class Parametric:
    """A program as an affine function of parameters.

    program: at their present values; index: per mutable Param that enters, its keys in the sequence of its index
    ([None] for a scalar); start: where its values begin in theta; theta: (K,) the present values;
    maps, base: target = base + map @ theta, map csr (size of the target, K), for each target that a parameter enters:
    "c" (n,), "P" (P.data, both triangles), "A" (A.data), "row_lower", "row_upper" (m,), "lower", "upper" (n,),
    "constant" (1,), "quadratics" (its coef), "log_coef", "log_M" (logs.M.data), "log_offset". A limit that is infinite
    for all parameters has an infinite base and an empty row in the map.
    """

    program: Program
    index: dict[str, list[Any]]
    start: dict[str, int]
    theta: Array
    maps: dict[str, Any]
    base: dict[str, Array]

    def at(self, theta: Array) -> Program:
        """The program at other values theta (K,); raises FormulationError for a wrong length."""
        theta = np.asarray(theta, dtype=float)
        if theta.shape != self.theta.shape:
            raise FormulationError(f"the program has {len(self.theta)} parameter values; {theta.shape} were given")
        values = {name: self.base[name] + self.maps[name] @ theta for name in self.maps}
        program = self.program
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if name in ("A", "P"):
                changes[name] = _with_data(getattr(program, name), value)
            elif name == "constant":
                changes[name] = float(value[0])
            elif name == "quadratics" and program.quadratics is not None:
                changes[name] = replace(program.quadratics, coef=value)
            elif not name.startswith("log_"):
                changes[name] = value
        if program.logs is not None:
            parts = {name[4:]: value for name, value in values.items() if name.startswith("log_")}
            if "M" in parts:
                parts["M"] = _with_data(program.logs.M, parts["M"])
            changes["logs"] = replace(program.logs, **parts)
        return program.replace(**changes)


def compile_parametric(model: Any) -> Parametric:
    """Read a Pyomo model into arrays that are affine in its mutable Params. The model is not written to.

    Raises `FormulationError`, naming the constraint, objective or variable and the parameters, where these enter in
    another way (a product or quotient of two, a function of one, within a nonlinear term), where one has no value,
    and for all that `compile` refuses.
    """
    parameters = Parameters()
    with PauseGC():
        arrays = Reader(model, parameters).arrays()
    theta = parameters.theta
    moving = {name: array for name, array in arrays.forms.items() if array.moving.any()}
    used = np.zeros(len(theta), dtype=bool)
    for array in moving.values():
        used[array.M.indices] = True
    _refuse_missing(parameters, theta, used)
    index: dict[str, list[Any]] = {}
    start: dict[str, int] = {}
    kept: list[Array] = []
    for name, keys in parameters.keys.items():
        here = np.arange(parameters.start[name], parameters.start[name] + len(keys))
        if used[here].any():
            index[name], start[name] = keys, sum(len(part) for part in kept)
            kept.append(here)
    places = np.concatenate([np.zeros(0, dtype=np.int64), *kept])
    maps = {name: array.M[:, places].tocsr() for name, array in moving.items()}
    base = {name: array.base for name, array in moving.items()}
    theta = theta[places]
    values = {name: array.base for name, array in arrays.forms.items()}
    values |= {name: base[name] + maps[name] @ theta for name in maps}
    _refuse_not_finite(arrays, values)
    return Parametric(arrays.program(values), index, start, theta, maps, base)


def _refuse_missing(parameters: Parameters, theta: Array, used: Array) -> None:
    missing = np.flatnonzero(used & np.isnan(theta))
    if len(missing):
        raise FormulationError(f"'{parameters.names(missing[:1])[0]}' has no value; give it one before solving")


def _refuse_not_finite(arrays: Arrays, values: dict[str, Array]) -> None:
    """Coefficients must be finite; of the limits, only those of one side may be infinite."""
    for name, value in values.items():
        limit = name in ("row_lower", "row_upper", "lower", "upper")
        bad = np.isnan(value) if limit else ~np.isfinite(value)
        if bad.any():
            k = int(bad.argmax())
            raise FormulationError(
                f"a parameter makes entry {k} of '{name}' {value[k]}; every number of the program must be finite"
            )


def _with_data(matrix: Any, data: Array) -> Any:
    """A matrix of the same structure with other entries."""
    return type(matrix)((data, matrix.indices, matrix.indptr), shape=matrix.shape)
