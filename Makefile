# Everything runs in .venv, which the first command makes; nothing needs root or a system package beyond
# Python >= 3.11 with venv (and gcc, without which casadi's IPOPT is used instead of cyipopt's).
# `make PYTHON=/path/to/python` chooses the interpreter.

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.ready
PIP   := $(PY) -m pip --disable-pip-version-check --no-input

# A user's own Python settings must not leak into the environment.
unexport PYTHONPATH
unexport PYTHONHOME
unexport PIP_USER
unexport PIP_TARGET
unexport PIP_PREFIX
export MPLBACKEND := Agg

.PHONY: help setup ipopt demo test lint coverage bench clean distclean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## make .venv with mktopt, all extras and the tools of a developer
	@echo "$(VENV) is ready"

demo: $(STAMP)  ## clear the market of use case 1; tables and pictures in out/
	@$(VENV)/bin/mktopt demo --out out

test: lint  ## lint, type check, tests (on up to four cores)
	@$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(STAMP)  ## ruff and mypy (strict)
	@$(PY) -m ruff check .
	@$(PY) -m mypy

coverage: $(STAMP)  ## tests with the lines that none of them reaches
	@$(PY) -m pytest --cov --cov-report=term

bench: $(STAMP)  ## speed against raw solvers, CVXPY and pandapower
	@$(PY) benchmarks/speed/clear.py
	@$(PY) benchmarks/speed/resolve.py
	@$(PY) benchmarks/speed/physics.py
	@$(PY) benchmarks/speed/gne.py
	@$(PY) benchmarks/speed/lossy.py
	@$(PY) benchmarks/speed/coalitions.py

ipopt: $(STAMP)  ## try again to build cyipopt (make setup has tried once)
	@$(PY) tools/build_cyipopt.py

clean:  ## remove what commands generated, keep .venv
	rm -rf out dist build htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove .venv too
	rm -rf $(VENV)

# The stamp comes last, so that an interrupted set-up is continued the next time.
$(STAMP): pyproject.toml tools/build_cyipopt.py tools/make_venv.sh
	@sh tools/make_venv.sh $(VENV) $(if $(PYTHON),"$(PYTHON)")
	@echo "installing mktopt and all extras into $(VENV) (once, one to three minutes) ..."
	@$(PIP) install --quiet --editable '.[dev]'
	@$(PY) tools/build_cyipopt.py || true
	@touch $@
