"""What a market model is made of: the record that ties a Pyomo model to its data, and constraints of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyomo.environ as pyo
from pyomo.common.modeling import unique_component_name
from pyomo.core.expr.relational_expr import RelationalExpression

from mktopt.errors import FormulationError, unknown_name
from mktopt.formulations.flows.common import Flow
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

Extra = Callable[[Any, Network], Any]
_ATTRIBUTE = "_mktopt_declaration"


@dataclass(frozen=True)
class Declaration:
    """The data behind a market model: what was declared, over which network and orders.

    mechanism: its name; flow: the flow's record; options: of the mechanism; extra: names of the constraints that
    the user added, as Pyomo component names.
    """

    mechanism: str
    network: Network
    orders: Orders
    flow: Flow
    options: Mapping[str, Any] = field(default_factory=dict)
    extra: tuple[str, ...] = ()


def declare(model: Any, declaration: Declaration) -> None:
    """Ties `declaration` to `model`."""
    object.__setattr__(model, _ATTRIBUTE, declaration)


def declaration_of(model: Any) -> Declaration:
    """The declaration of a model made by `mktopt.build`; raises FormulationError for any other."""
    found = getattr(model, "__dict__", {}).get(_ATTRIBUTE)
    if not isinstance(found, Declaration):
        raise FormulationError(
            f"{model!r} is no market model; make it with mktopt.build(mechanism, network, orders), "
            "or solve a model of your own with mktopt.solvers.solve"
        )
    return found


def add_extra(model: Any, extra: Sequence[Extra]) -> None:
    """Calls each `function(model, network)` of `extra` and notes the constraints that it declares.

    A function may attach Pyomo components to the model, or return one relational expression, which is attached
    under the function's name. Raises FormulationError where it declares no constraint, declares an objective, or
    asks for an index that the model does not have (with the nearest one).
    """
    declaration = declaration_of(model)
    names = list(declaration.extra)
    for function in extra:
        names += _added(model, function, declaration.network)
    declare(model, replace(declaration, extra=tuple(names)))


def _added(model: Any, function: Extra, network: Network) -> list[str]:
    label = getattr(function, "__name__", "extra")
    before = {id(component) for component in model.component_objects()}
    try:
        returned = function(model, network)
    except KeyError as error:
        raise FormulationError(f"extra constraint '{label}': {_missing(model, error)}") from error
    if isinstance(returned, RelationalExpression):
        name = unique_component_name(model, label if label.isidentifier() else "extra")
        model.add_component(name, pyo.Constraint(expr=returned))
    fresh = [component for component in model.component_objects() if id(component) not in before]
    if any(component.ctype is pyo.Objective for component in fresh):
        raise FormulationError(f"extra constraint '{label}' declares an objective; a market has one already")
    names = [component.name for component in fresh if component.ctype is pyo.Constraint]
    if not names:
        raise FormulationError(
            f"extra constraint '{label}' declared no constraint; attach one (model.cap = Constraint(...)) "
            "or return a relation such as model.accepted_kw['a', 0] <= 5"
        )
    return names


def _missing(model: Any, error: KeyError) -> str:
    """A message for an index that is not there, with the nearest order, branch or bus."""
    text = str(error.args[0]) if error.args else str(error)
    for component in (model.accepted_kw, *model.grid.component_objects((pyo.Var, pyo.Constraint))):
        if f"'{component.name}'" in text or f"component {component.name}" in text:
            wanted = text.split("'")[1] if text.startswith("Index '") else text
            known = [str(key) for key in component]
            return str(unknown_name(f"index of {component.name}", wanted, known))
    return text
