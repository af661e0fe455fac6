"""pandapower's example nets, each read once per process: reading one takes half a second, copying it a hundredth."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest


@functools.cache
def _read(name: str) -> Any:
    networks = pytest.importorskip("pandapower.networks")
    return getattr(networks, name)()


def example_net(name: str) -> Any:
    """The net `pandapower.networks.<name>()`, a copy that a test may spoil."""
    return copy.deepcopy(_read(name))
