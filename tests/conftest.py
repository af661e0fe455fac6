"""What all tests share: reproducible draws of hypothesis and a plotting backend that needs no screen."""

from __future__ import annotations

import os

# Matplotlib reads the variable when something imports it; importing it here would spoil the import tests.
os.environ["MPLBACKEND"] = "Agg"
# One thread of BLAS each: tests run side by side, their matrices are small, and threads that wait for a core spin.
# NumPy and SciPy read this when they are imported, which is after this file; processes that tests start inherit it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

from hypothesis import HealthCheck, Phase, settings

# No deadline: the first solve of a process imports Pyomo and the solver, and says nothing about later ones.
# Shrinking a failure can take minutes; the profile `dev` does it.
_quick = (Phase.explicit, Phase.reuse, Phase.generate)
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("ci", derandomize=True, max_examples=20, phases=_quick, **_common)
settings.register_profile("dev", max_examples=40, **_common)
settings.register_profile("thorough", max_examples=1000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
