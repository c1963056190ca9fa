# make demo   set up, then PLATO, DAgger and BC on the quadrotor forest
# make test   set up, then the whole test suite
# Needs: python >= 3.11 with venv and headers, a C++ compiler. Everything else comes from the package registry.

VENV   ?= .venv
# of this Makefile's own set-up; PYTHON=... chooses another interpreter
PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
CXX_FOUND := $(shell for c in "$(CXX)" c++ g++ clang++; do command -v $$c >/dev/null 2>&1 && { echo $$c; break; }; done)
STAMP  := $(VENV)/.installed
BIN    := $(VENV)/bin
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
SOURCES := pyproject.toml $(wildcard CMakeLists.txt) $(shell find envs/native -type f 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check seconds bench readme wheel clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile
	@echo "also: setup check (ruff, pyright, fast tests) test-slow seconds bench readme wheel clean"

setup: $(STAMP)

# Done once; again when the dependencies, the build or the native sources change.
$(STAMP): $(SOURCES)
	@test -n "$(PYTHON)" || { echo "error: no python >= 3.11 found; install one (Debian: apt install python3 python3-venv) or say PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; install it (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "error: $(PYTHON) has no headers (Python.h); install them (Debian: apt install python3-dev)" >&2; exit 1; }
	@test -n "$(CXX_FOUND)" || { echo "error: no C++ compiler found; install one (Debian: apt install g++) or say CXX=/path/to/compiler" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	CXX=$(CXX_FOUND) $(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/gps demo

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# Under two minutes on two cores: linters, and as many of the cheapest test files as the budget of seconds holds.
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --budget 120

# Processor time of each test file, from which `check` chooses the cheapest; again when tests are added or grow.
seconds: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" --record

# Needs the extras bench and mjx; what is not installed is shown as not measured.
bench: $(STAMP) test-slow
	$(BIN)/python -m benchmarks

readme: $(STAMP)
	$(BIN)/python -m benchmarks.readme

wheel: $(STAMP)
	CXX=$(CXX_FOUND) $(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist
