"""What a market model is made of: the record that ties a Pyomo model to its data, and constraints of the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyomo.environ as pyo
from pyomo.common.modeling import unique_component_name
from pyomo.core.base.component import Component
from pyomo.core.expr.relational_expr import RelationalExpression

from mktopt.errors import FormulationError, unknown_name
from mktopt.formulations.flows.common import Flow
from mktopt.networks.network import Network
from mktopt.networks.orders import Orders

if TYPE_CHECKING:
    from mktopt.formulations.security import Security
    from mktopt.networks.prosumers import Prosumers

Extra = Callable[[Any, Network], Any]
_ATTRIBUTE = "_mktopt_declaration"


@dataclass(frozen=True)
class Declaration:
    """The data behind a market model: what was declared, over which network and orders.

    mechanism: its name; flow: the flow's record; options: of the mechanism; built: names of the constraints that the
    mechanism declared. All others are the user's own, whether `extra` or a later hand added them. recipe: of a
    parametric model, a function of network and orders that builds it anew, `extra` included. security: the
    contingencies that the dispatch must survive; where their rows are too many to declare at once, its `separate`
    declares those that the solved model violates, and the market is cleared when there are none left. prosumers: of a
    market that takes them as they are; its orders are then none. extra: the user's functions, for a market that is
    cleared by way of other models.
    """

    mechanism: str
    network: Network
    orders: Orders
    flow: Flow
    options: Mapping[str, Any] = field(default_factory=dict)
    built: frozenset[str] = frozenset()
    recipe: Callable[[Network, Orders], Any] | None = field(default=None, repr=False)
    security: Security | None = field(default=None, repr=False)
    prosumers: Prosumers | None = field(default=None, repr=False)
    extra: tuple[Extra, ...] = field(default=(), repr=False)


def declare(model: Any, declaration: Declaration) -> None:
    """Ties `declaration` to `model`, whose constraints so far are the mechanism's."""
    built = frozenset(component.name for component in model.component_objects(pyo.Constraint))
    object.__setattr__(model, _ATTRIBUTE, replace(declaration, built=built))


def remember(model: Any, recipe: Callable[[Network, Orders], Any]) -> None:
    """Notes how `model` can be built anew, in another process or over other data."""
    object.__setattr__(model, _ATTRIBUTE, replace(declaration_of(model), recipe=recipe))


def keep_extra(model: Any, extra: Sequence[Extra]) -> None:
    """Notes the functions that added the user's own constraints to `model`."""
    object.__setattr__(model, _ATTRIBUTE, replace(declaration_of(model), extra=tuple(extra)))


def with_network(model: Any, network: Network) -> Any:
    """`model`, whose declaration says from now on that it is on `network`: its own grid with other ratings and loads,
    which its parameters already hold."""
    object.__setattr__(model, _ATTRIBUTE, replace(declaration_of(model), network=network))
    return model


def declaration_of(model: Any) -> Declaration:
    """The declaration of a model made by `mktopt.build`; raises FormulationError for any other."""
    found = getattr(model, "__dict__", {}).get(_ATTRIBUTE)
    if not isinstance(found, Declaration):
        raise FormulationError(
            f"{model!r} is no market model; make it with mktopt.build(mechanism, network, orders), "
            "or solve a model of your own with mktopt.solvers.solve"
        )
    return found


def own_rows(model: Any) -> list[Any]:
    """The active rows of the user's own constraints, in the model's sequence."""
    built = declaration_of(model).built
    return [
        row
        for component in model.component_objects(pyo.Constraint, active=True)
        if component.name not in built and not component.is_reference()
        for row in component.values()
        if row.active
    ]


def add_extra(model: Any, extra: Sequence[Extra]) -> None:
    """Calls each `function(model, network)` of `extra`, which adds constraints to the model.

    A function may attach Pyomo components to the model, or return a relational expression or several, which are
    attached under the function's name. Raises FormulationError where it declares no constraint, declares an
    objective, or asks for an index that the model does not have (with the nearest one).
    """
    network = declaration_of(model).network
    for function in extra:
        _add(model, function, network)


def _add(model: Any, function: Extra, network: Network) -> None:
    label = getattr(function, "__name__", "extra")
    before = {id(component) for component in model.component_objects()}
    try:
        returned = function(model, network)
    except KeyError as error:
        raise FormulationError(f"extra constraint '{label}': {_missing(model, error)}") from error
    _attach(model, returned, label)
    fresh = {component.ctype for component in model.component_objects() if id(component) not in before}
    if pyo.Objective in fresh:
        raise FormulationError(f"extra constraint '{label}' declares an objective; a market has one already")
    if pyo.Constraint not in fresh:
        raise FormulationError(
            f"extra constraint '{label}' declared no constraint; attach one (model.cap = Constraint(...)) "
            "or return a relation such as model.accepted_kw['a', 0] <= 5"
        )


def _attach(model: Any, returned: Any, label: str) -> None:
    """Attaches what an extra function returned: one relation, or several as an indexed constraint."""
    if returned is None or isinstance(returned, Component):
        return
    relations = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    wrong = [item for item in relations if not isinstance(item, RelationalExpression)]
    if wrong or not relations:
        raise FormulationError(
            f"extra constraint '{label}' returned {wrong[0] if wrong else returned!r}, which is no relation between "
            "variables; return something such as model.accepted_kw['a', 0] <= 5, or a list of such relations"
        )
    name = unique_component_name(model, label if label.isidentifier() else "extra")
    many = isinstance(returned, (list, tuple))
    try:
        constraint = (
            pyo.Constraint(range(len(relations)), rule=lambda _, k: relations[k])
            if many
            else pyo.Constraint(expr=returned)
        )
        model.add_component(name, constraint)
    except ValueError as error:  # strict and "not equal" relations, which no solver can take
        raise FormulationError(f"extra constraint '{label}' cannot be taken: {error}") from None


def _missing(model: Any, error: KeyError) -> str:
    """A message for an index that is not there, with the nearest order, branch or bus."""
    text = str(error.args[0]) if error.args else str(error)
    found = re.match(r"Index '(.*)' is not valid for indexed component '(.*)'", text)
    component = model.find_component(found[2]) if found else None
    if found is None or component is None:
        return text
    return str(unknown_name(f"index of {component.name}", found[1], map(str, component)))
