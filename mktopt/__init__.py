"""mktopt: local electricity markets as declarative Pyomo models on real grids, with results that testify.

    import mktopt as mo
    network, orders, *_ = mo.load_case("ieee34")
    clearing = mo.clear("surplus", network, orders, flow="transport")
    print(clearing.prices, clearing.certificate)

Names are loaded when first used, so that importing the package stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Network": "mktopt.networks.network",
    "Orders": "mktopt.networks.orders",
    "Prosumers": "mktopt.networks.prosumers",
    "Case": "mktopt.networks.cases",
    "case_names": "mktopt.networks.cases",
    "load_case": "mktopt.networks.cases",
    "load_network": "mktopt.networks.cases",
    "FLOWS": "mktopt.formulations.flows",
    "Flow": "mktopt.formulations.flows",
    "flow": "mktopt.formulations.flows",
    "MECHANISMS": "mktopt.mechanisms",
    "SOLVERS": "mktopt.solvers",
    "build": "mktopt.mechanisms",
    "clear": "mktopt.mechanisms",
    "solve": "mktopt.mechanisms",
    "settle": "mktopt.clearing.settlement",
    "Session": "mktopt.clearing.session",
    "Clearing": "mktopt.clearing.result",
    "Settlement": "mktopt.clearing.settlement",
    "Certificate": "mktopt.clearing.certificate",
    "Equilibrium": "mktopt.clearing.equilibrium",
    "EquilibriumCertificate": "mktopt.clearing.equilibrium_certificate",
    "Game": "mktopt.formulations.game",
    "solve_game": "mktopt.agents.game",
    "GameResult": "mktopt.agents.game",
    "price_of_anarchy": "mktopt.agents.game",
    "own_utility": "mktopt.formulations.utilities",
    "regrets": "mktopt.clearing.certificate",
    "MktoptError": "mktopt.errors",
    "DataError": "mktopt.errors",
    "UnknownNameError": "mktopt.errors",
    "FormulationError": "mktopt.errors",
    "SolverError": "mktopt.errors",
    "InfeasibleError": "mktopt.errors",
    "UnboundedError": "mktopt.errors",
}

# What is public under another name than it has at home.
_NAMED = {"Session": "MarketSession"}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from mktopt.agents.game import GameResult as GameResult
    from mktopt.agents.game import price_of_anarchy as price_of_anarchy
    from mktopt.agents.game import solve_game as solve_game
    from mktopt.clearing.certificate import Certificate as Certificate
    from mktopt.clearing.certificate import regrets as regrets
    from mktopt.clearing.equilibrium import Equilibrium as Equilibrium
    from mktopt.clearing.equilibrium_certificate import EquilibriumCertificate as EquilibriumCertificate
    from mktopt.clearing.result import Clearing as Clearing
    from mktopt.clearing.session import MarketSession as Session  # noqa: F401 - public under this name
    from mktopt.clearing.settlement import Settlement as Settlement
    from mktopt.clearing.settlement import settle as settle
    from mktopt.errors import DataError as DataError
    from mktopt.errors import FormulationError as FormulationError
    from mktopt.errors import InfeasibleError as InfeasibleError
    from mktopt.errors import MktoptError as MktoptError
    from mktopt.errors import SolverError as SolverError
    from mktopt.errors import UnboundedError as UnboundedError
    from mktopt.errors import UnknownNameError as UnknownNameError
    from mktopt.formulations.flows import FLOWS as FLOWS
    from mktopt.formulations.flows import Flow as Flow
    from mktopt.formulations.flows import flow as flow
    from mktopt.formulations.game import Game as Game
    from mktopt.formulations.utilities import own_utility as own_utility
    from mktopt.mechanisms import MECHANISMS as MECHANISMS
    from mktopt.mechanisms import build as build
    from mktopt.mechanisms import clear as clear
    from mktopt.mechanisms import solve as solve
    from mktopt.networks.cases import Case as Case
    from mktopt.networks.cases import case_names as case_names
    from mktopt.networks.cases import load_case as load_case
    from mktopt.networks.cases import load_network as load_network
    from mktopt.networks.network import Network as Network
    from mktopt.networks.orders import Orders as Orders
    from mktopt.networks.prosumers import Prosumers as Prosumers
    from mktopt.solvers import SOLVERS as SOLVERS


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mktopt' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), _NAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
