# Every target makes the environment first. Another interpreter: make PYTHON=python3.12 test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one thread per process: the tests and the simulators run one process per core
export OMP_NUM_THREADS ?= 1

.PHONY: help env demo explore models test lint type bench docs
.DELETE_ON_ERROR:

help:
	@echo "make explore a page with shipped models: push the block, and look into the latent space"
	@echo "make demo    train LWD on the embedded PushT demonstrations, evaluate it, write a report to runs/demo"
	@echo "make test    run the tests            make lint    ruff, import contract   make type    mypy"
	@echo "make bench   measure speed            make docs    build site/     make env     only the environment (.venv)"

env: $(VENV)/.installed

# the stamp is newer than what it was made from, so pip runs again only when a dependency changes
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "lwd needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[pusht,metaworld,mujoco,adroit,robosuite,sb3,lerobot,hdf5,minari,onnx,serve,ray,dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

demo: env
	$(BIN)/lwd demo

explore: env
	$(BIN)/lwd explore

models: env
	$(BIN)/python benchmarks/shipped.py

test: env
	$(BIN)/python -m pytest -q -n 2

lint: env
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-cache

type: env
	$(BIN)/mypy

bench: env
	@set -e; for file in benchmarks/bench_*.py; do echo "$$file"; $(BIN)/python "$$file"; done

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict
