# GNU make. `make` alone lists the targets; none of them needs an active environment.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup test fast test-slow test-all unit coverage browser lint format docs demo soak integrations trainers lock audit clean

# Which pin file .venv is filled from: cpu, gpu-py311 or gpu-py312. Once set up, .venv remembers.
INSTALLED := $(shell cat .venv/.installed 2>/dev/null)
PINS ?= $(or $(INSTALLED),cpu)
ACTIVATE := . .venv/bin/activate
PYTEST_ARGS ?=
# Where this is set, each of some hundred processes that tests start compiles the sources anew.
unexport PYTHONDONTWRITEBYTECODE
# Processes that run tests side by side, each on cores of its own; a file's tests stay together, in their order, and so do
# those of tests/e2e/chain, which share one run (see tests/conftest.py).
TEST_WORKERS ?= 2
# Files of long tests come first (see tests/conftest.py); a worker takes the next file when it is done with one.
PYTEST = $(ACTIVATE) && python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## */\1\t/p' Makefile | expand -t 10
	@echo
	@echo "On a GPU machine: make setup PINS=gpu-py312 (or gpu-py311). Another interpreter: make setup PYTHON=path/to/python3.11"

setup: .venv/.installed ## make .venv from the exact pins, with this project in it

.venv/.installed: requirements/$(PINS).txt pyproject.toml
	@PYTHON='$(PYTHON)' requirements/install.sh $(PINS)

ifneq ($(INSTALLED),$(PINS))
.PHONY: .venv/.installed # filled from other pins, or never
endif

test: browser ## lint, types, and all tests but the slow ones
	@$(MAKE) --no-print-directory -j2 lint fast

fast: setup # side by side with lint, which leaves a core without work for more than a minute
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: setup browser ## the slow tests: many kills, long chains of stages, pages in a browser (about 20 minutes on two cores)
	$(PYTEST) -m slow $(PYTEST_ARGS)

test-all: lint browser ## every test
	$(PYTEST) $(PYTEST_ARGS)

unit: setup ## the quick tests alone (5 minutes)
	$(PYTEST) -m unit $(PYTEST_ARGS)

coverage: setup ## branch coverage of the quick tests, per room
	$(PYTEST) -m unit --cov --cov-report= $(PYTEST_ARGS)
	$(ACTIVATE) && python tests/support/coverage_by_room.py

browser: setup
	@requirements/browser.sh

lint: setup ## style and types, changing nothing
	$(ACTIVATE) && ruff check . && ruff format --check . && mypy && lint-imports --no-logo

format: setup ## put style right
	$(ACTIVATE) && ruff check --fix . && ruff format .

docs: setup ## the documentation site in build/site; open its index.html
	$(ACTIVATE) && NO_MKDOCS_2_WARNING=1 mkdocs build --strict

demo: setup ## the whole road on toy data: prepare, train, evaluate; then the classic reward model
	$(ACTIVATE) && reasongenrm toy build --out build/toy
	$(ACTIVATE) && ./1_prepare.sh configs/demo.yaml
	$(ACTIVATE) && reasongenrm select configs/demo.yaml
	$(ACTIVATE) && ./2_train.sh configs/demo.yaml
	$(ACTIVATE) && ./3_eval_reward_bench.sh configs/demo.yaml
	$(ACTIVATE) && reasongenrm answers generate configs/answers/demo.yaml --out runs/scalar-demo/answers.jsonl
	$(ACTIVATE) && reasongenrm scalar train configs/scalar/demo.yaml
	$(ACTIVATE) && reasongenrm scalar evaluate configs/scalar/demo.yaml
	$(ACTIVATE) && reasongenrm scalar notebook configs/scalar/demo.yaml

integrations: setup ## the judge inside inspect_ai, lm-eval and lighteval, in an environment of their own
	requirements/integrations.sh
	$(ACTIVATE) && python -m pytest tests/examples $(PYTEST_ARGS)

trainers: setup ## the judge as a reward in verl, OpenRLHF, verifiers, ms-swift and TRL, in environments of their own
	requirements/trainers.sh
	$(ACTIVATE) && TRAINERS=.venv-trainers python -m pytest tests/trainers $(PYTEST_ARGS)
	cat build/conformance.md

soak: setup ## load, faults and kills, about ten minutes; the table of docs/reliability.md
	$(ACTIVATE) && python bench/soak.py

audit: ## look the pins up in PyPI's database of known vulnerabilities
	requirements/audit.sh $(PINS)

lock: ## resolve the dependencies anew and rewrite that pin file
	PYTHON='$(PYTHON)' requirements/lock.sh $(PINS)

clean: ## remove what is built; .venv and runs/ stay
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
