# Two commands do everything on a machine with Python 3.11 or newer: `make run` and `make test`.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
PORT ?= 3000
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
HASHED := --require-hashes --requirement

.PHONY: help install install-dev install-spark run test lint format bench bench-ingest bench-metrics bench-spark clean lock

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed ## Make .venv ready, nothing else

run: .venv/installed ## Demo data, materialized, and the Dagster UI (PORT=3000); Ctrl-C stops it
	$(BIN)/analytics up --demo --port $(PORT)

test: .venv/installed-dev ## All tests
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: .venv/installed-dev ## Format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed-dev ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/installed-dev ## Measure what the documentation claims
	$(BIN)/python -m benchmarks

bench-ingest: .venv/installed-dev ## Measure the ingest door, beside VictoriaMetrics where it is installed
	$(BIN)/python -m benchmarks.ingest

bench-metrics: .venv/installed-dev ## Measure the catalogue's figures, beside the same SQL by hand, and Spark where it is installed
	$(BIN)/python -m benchmarks.metrics

install-spark: .venv/installed-dev ## Add what ANALYTICS_ENGINE=spark needs besides Java (400 MB)
	$(PIP) install $(HASHED) requirements/spark.txt

bench-spark: install-spark ## Measure Spark's tables beside DuckDB's, and that they are equal (needs Java)
	$(BIN)/python -m benchmarks.spark

clean: ## Remove .venv and caches; the data in .analytics stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Extras stay in: pip 23 does not take `gql==4.0.0` with a hash for a package that asks for `gql[requests]`.
lock: ## Resolve the dependencies again (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-strip-extras \
		--custom-compile-command "make lock" pyproject.toml --group build -o requirements/run.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-strip-extras \
		--custom-compile-command "make lock" pyproject.toml --group build --group dev -c requirements/run.txt -o requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-strip-extras \
		--custom-compile-command "make lock" pyproject.toml --extra spark -c requirements/dev.txt -o requirements/spark.txt

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Name another: make run PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: requirements/run.txt pyproject.toml | .venv/bin/python
	@echo "installing the locked dependencies into .venv ..."
	$(PIP) install $(HASHED) requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/installed-dev: requirements/dev.txt pyproject.toml | .venv/bin/python
	@echo "installing the locked dependencies into .venv ..."
	$(PIP) install $(HASHED) requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ .venv/installed
