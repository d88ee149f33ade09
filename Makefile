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
SYNC := $(UV) sync --frozen --extra shop --extra causal --extra distributed --group real
ARGS ?=
# Tests that kill, freeze and wait a lot: `make test-faults`. What every backend must do at all is in tests/contract.
LONG := tests/faults/test_flink_kill9.py tests/faults/test_faust_kill9.py tests/faults/test_kafka_engine_kill.py \
        tests/real/test_kafka_log_faults.py tests/real/test_kafka_engine_stages.py tests/real/test_kafka_snapshots.py \
        tests/real/test_kafka_engine_equal.py tests/real/test_faust_engine.py tests/real/test_elasticsearch_documents.py \
        tests/real/test_neo4j_topology.py tests/real/test_minio_artifacts.py tests/real/test_orchestrators.py \
        tests/real/test_flink_windows.py tests/real/test_gateway_limits.py tests/real/test_kafka_engine.py \
        tests/faults/test_stack_faults.py tests/faults/test_stack_scenarios.py tests/real/test_same_answers.py \
        tests/faults/test_partitioned_collector.py tests/faults/test_stores_killed.py \
        tests/faults/test_broker_full_disk.py tests/faults/test_migrate_demo.py tests/faults/test_two_of_each.py \
        tests/real/test_role_refusals.py
# What test-real needs; the others are for test-faults and the stack.
SERVERS := chromium prometheus alertmanager victoria compose_schema kafka elasticsearch neo4j redis minio postgres
export UV_PYTHON_DOWNLOADS := never

.PHONY: help setup check test test-real test-faults servers stack stack-down bench demo up proto clean

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
	$(BIN)/python -m tests.servers $(SERVERS)
	$(BIN)/python -m pytest -q -m real $(LONG:%=--ignore=%) $(ARGS)

test-faults: $(VENV)/.ready-dev ## the long fault tests: many kills of brokers, jobs and processes; not part of CI
	$(BIN)/python -m tests.servers
	$(BIN)/python -m pytest -q $(wildcard $(LONG)) $(ARGS)

servers: $(VENV)/.ready-dev ## brings every server of the tests and of the stack into a cache, with progress
	$(BIN)/python -m tests.servers

stack: servers ## every server and every role of the distributed shape on this machine, in the background
	$(BIN)/python -m tests.servers.stack up $(ARGS)

stack-down: $(VENV)/.ready-dev ## stops that stack and removes what it held
	$(BIN)/python -m tests.servers.stack down

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
