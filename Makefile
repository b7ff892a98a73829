# Every target first sets up .venv, which costs nothing if nothing has changed.
#
#   make install PYTHON=/path/to/python3   build .venv with this interpreter
#   make install PIP_ARGS='...'            pass arguments to pip, for example another package index
#
# Both matter only while .venv is being built: run `make clean-venv` first to change them later.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-slow test-gpu mutants fuzz lint format clean clean-venv stale

BIN := .venv/bin
INSTALLED := .venv/.installed
# Age does not show everything: the interpreter may be gone, or this directory moved (.venv has absolute paths).
STALE := $(shell test -x $(BIN)/python && test "$$(cat $(INSTALLED) 2>&1)" = "$$(pwd -P)" || echo stale)

DEMO_DATA := data/cmudict
DEMO_RUN := runs/demo

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r a b; do printf '%-20s %s\n' "$$a" "$$b"; done

install: $(INSTALLED) ## Build .venv, or bring it up to date
	@echo ".venv is up to date: $$($(BIN)/python --version), $$(pwd -P)/$(BIN)/freerun"

$(INSTALLED): pyproject.toml constraints.txt $(wildcard hatch_build.py native/*) $(STALE)
	@sh scripts/make_venv.sh '$(PYTHON)' $(PIP_ARGS)

demo: $(DEMO_DATA)/test.tsv ## Train a small model on CMUdict and evaluate it (about 5 minutes)
	$(BIN)/freerun train configs/demo.toml --out $(DEMO_RUN) --resume
	$(BIN)/freerun evaluate $(DEMO_RUN) $(DEMO_DATA)/test.tsv --examples 20
	@echo "Now try: $(BIN)/freerun predict $(DEMO_RUN) phonology"
	@echo "Or, as a service with a page to try it: $(BIN)/freerun serve $(DEMO_RUN)"

$(DEMO_DATA)/test.tsv: | $(INSTALLED)
	$(BIN)/freerun data make cmudict $(DEMO_DATA)

test: lint ## Linter, type checker, layers and all fast tests
	$(BIN)/python -m pytest -n 2

test-slow: $(INSTALLED) ## The slow tests: learning, killed runs, real data, a sample of the planted bugs
	$(BIN)/python -m pytest -m slow

# Installs nothing: the machine's own interpreter has the torch that fits its driver, and freerun's requirements.
GPU_PYTHON = $(or $(PYTHON),$(BIN)/python)
test-gpu: ## The tests and benchmarks that need a GPU, with PYTHON=an interpreter that has torch for it
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/gpu.py --check
	PYTHONPATH=. $(GPU_PYTHON) -m pytest -c tests/gpu/pytest.ini tests/gpu
	PYTHONPATH=. $(GPU_PYTHON) benchmarks/gpu.py

# MUTANTS='--file freerun/search/beam.py' passes options on; the script's --help explains them.
MINUTES ?= 60
MUTANTS ?=
mutants: $(INSTALLED) ## Change the code in small ways, each of which a test should notice (MINUTES=60; resumes)
	$(BIN)/python scripts/mutants.py --minutes $(MINUTES) --processes 2 $(MUTANTS)

# COUNT is of each target; the script's --help explains FUZZ.
COUNT ?= 100000
FUZZ ?=
fuzz: $(INSTALLED) ## Pass damaged files and odd arguments to freerun (COUNT=100000, MINUTES=60; resumes)
	$(BIN)/python scripts/fuzz.py --count $(COUNT) --minutes $(MINUTES) --processes 2 $(FUZZ)

lint: $(INSTALLED) ## Linter, format, type checker and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Apply ruff's automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove caches and builds, but not .venv, data or runs
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist examples/browser/dist
	find freerun tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv: ## Remove .venv
	rm -rf .venv .venv.unfinished
