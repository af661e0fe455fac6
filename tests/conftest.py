"""What all tests share: reproducible draws of hypothesis and a plotting backend that needs no screen."""

from __future__ import annotations

import os

# Matplotlib reads the variable when something imports it; importing it here would spoil the import tests.
os.environ["MPLBACKEND"] = "Agg"

from hypothesis import HealthCheck, Phase, settings

# No deadline: the first solve of a process imports Pyomo and the solver, and says nothing about later ones.
# Shrinking a failure can take minutes; the profile `dev` does it.
_quick = (Phase.explicit, Phase.reuse, Phase.generate)
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("ci", derandomize=True, max_examples=20, phases=_quick, **_common)
settings.register_profile("dev", max_examples=40, **_common)
settings.register_profile("thorough", max_examples=1000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
