# Everything a target needs, it sets up: `make help` lists the targets.
# Repeated calls are quick: .venv/.ready-* remember which packages are in place for which lock file.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3.11
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# One environment for all targets: types and imports of every test are checked, so its clients must be there.
SYNC := $(UV) sync --frozen --extra shop --extra causal --group real
ARGS ?=
export UV_PYTHON_DOWNLOADS := never

.PHONY: help setup check test test-real bench demo up proto clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.ready-uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready-uv uv.lock pyproject.toml Makefile
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(SYNC) --inexact --quiet
	@touch $@

setup: $(VENV)/.ready-dev ## the environment for development, in .venv

check: $(VENV)/.ready-dev ## formatting, lint, types, layers, lock file: exactly what CI checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(UV) lock --check --quiet

test: $(VENV)/.ready-dev ## tests that need no server; ARGS go to pytest
	$(BIN)/python -m pytest -q -m "not real" $(ARGS)

test-real: $(VENV)/.ready-dev ## tests against real servers, which it downloads once into a cache
	$(BIN)/python -m tests.servers
	$(BIN)/python -m pytest -q -m real $(ARGS)

bench: $(VENV)/.ready-dev ## measures, and writes tests/benchmarks/results/
	set -e; for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file $(ARGS); done

demo: $(VENV)/.ready-dev ## the shop, a fault, an incident, its cause and its fix; ARGS="--yes --fault payment-delay"
	$(BIN)/headspring demo $(ARGS)

up: $(VENV)/.ready-dev ## the platform in this terminal; ARGS go to `headspring up`
	$(BIN)/headspring up $(ARGS)

proto: $(VENV)/.ready-uv ## Python code from proto/headspring/proto/v1/*.proto
	./proto/generate.sh

clean: ## removes the environment, not your data
	rm -rf $(VENV)
