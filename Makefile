# Each target makes .venv first where it is missing; a second call reuses it.
#   make demo   fits flows to real data and guides to eight schools, and draws pictures into out/
#   make test   the tests, doctests included
#   make lint   ruff and mypy
#   make docs   the documentation as a site, into site/
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)

# Beside another job two OpenMP threads wait on each other more than they compute.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint docs format clean
.DEFAULT_GOAL := test

# torch comes by itself first, so that a CPU wheel lying ready is taken and nothing of CUDA follows.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[test,plot,examples]' -c constraints.txt
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/density.py $(ARGS)
	$(BIN)/python examples/eight_schools.py $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[docs]' -c constraints.txt
	$(BIN)/mkdocs build --strict

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist out site .pytest_cache .mypy_cache .ruff_cache
