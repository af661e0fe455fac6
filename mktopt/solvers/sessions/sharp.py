"""A session whose answers are compared with each other: in sharper tolerances than one answer alone needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mktopt.solvers.sessions.session import Session

_SHARP: dict[str, dict[str, Any]] = {"clarabel": {"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-12}}


def sharp_session(model: Any, solver: str | None = None, options: Mapping[str, Any] | None = None) -> Session:
    """A `Session` of `model` in sharp tolerances; solver (None: the usual one) and options as there, which go before.

    Quadratic programs are worth it: their interior point stops at the root of what it could reach. Programs with cones
    are sharp by themselves.
    """
    session = Session(model, solver, options)
    sharp = _SHARP.get(session.solver)
    if sharp is None or session.program.problem_class != "QP":
        return session
    return Session(session.parametric, solver, {**sharp, **(options or {})})
