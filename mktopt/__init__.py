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
    "Wire": "mktopt.networks.private_wires",
    "add_private_wires": "mktopt.networks.private_wires",
    "with_private_wires": "mktopt.networks.private_wires",
    "endowments": "mktopt.networks.private_wires",
    "Coalition": "mktopt.clearing.coalition",
    "CoalitionGame": "mktopt.agents.coalitions.values",
    "EnergyGame": "mktopt.agents.coalitions.energy",
    "MarketGame": "mktopt.agents.coalitions.market",
    "PartitionGame": "mktopt.agents.coalitions.partition",
    "SharedGrid": "mktopt.agents.coalitions.shared_grid",
    "in_core": "mktopt.agents.coalitions.core",
    "least_core": "mktopt.agents.coalitions.core",
    "nucleolus": "mktopt.agents.coalitions.nucleolus",
    "shapley": "mktopt.agents.coalitions.shapley",
    "shapley_sampled": "mktopt.agents.coalitions.shapley",
    "supporting_payments": "mktopt.agents.coalitions.payments",
    "merge_and_split": "mktopt.agents.coalitions.formation",
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
    from mktopt.agents.coalitions.core import in_core as in_core
    from mktopt.agents.coalitions.core import least_core as least_core
    from mktopt.agents.coalitions.energy import EnergyGame as EnergyGame
    from mktopt.agents.coalitions.formation import merge_and_split as merge_and_split
    from mktopt.agents.coalitions.market import MarketGame as MarketGame
    from mktopt.agents.coalitions.nucleolus import nucleolus as nucleolus
    from mktopt.agents.coalitions.partition import PartitionGame as PartitionGame
    from mktopt.agents.coalitions.payments import supporting_payments as supporting_payments
    from mktopt.agents.coalitions.shapley import shapley as shapley
    from mktopt.agents.coalitions.shapley import shapley_sampled as shapley_sampled
    from mktopt.agents.coalitions.shared_grid import SharedGrid as SharedGrid
    from mktopt.agents.coalitions.values import CoalitionGame as CoalitionGame
    from mktopt.agents.game import GameResult as GameResult
    from mktopt.agents.game import price_of_anarchy as price_of_anarchy
    from mktopt.agents.game import solve_game as solve_game
    from mktopt.clearing.certificate import Certificate as Certificate
    from mktopt.clearing.certificate import regrets as regrets
    from mktopt.clearing.coalition import Coalition as Coalition
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
    from mktopt.networks.private_wires import Wire as Wire
    from mktopt.networks.private_wires import add_private_wires as add_private_wires
    from mktopt.networks.private_wires import endowments as endowments
    from mktopt.networks.private_wires import with_private_wires as with_private_wires
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
